"""Areas under curves against slow versions that follow the definitions."""

import math

import numpy as np
import pytest
import torch

from emlnet.metrics import roc, saliency_metrics
from tests.emlnet import single_metrics
from tests.emlnet.random_gaze import SEEDS, random_looks, random_maps


def _slow_draw(seed, *counters):
    mask, gold = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(state):
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
        return state ^ (state >> 31)

    state = mix((seed + gold) & mask)
    for counter in counters:
        state = mix((state + counter * gold) & mask)
    return state & (2**63 - 1)


def _slow_area(positives, negatives):
    thresholds = [step / 10 for step in range(10, -1, -1)]
    hits = [0, *(np.mean(positives >= t) for t in thresholds), 1]
    alarms = [0, *(np.mean(negatives >= t) for t in thresholds), 1]
    return np.trapezoid(hits, alarms)


def _slow_scaled(maps):
    maps = maps.numpy().ravel()
    return (maps - maps.min()) / (maps.max() - maps.min())


def test_draws_equal_splitmix_in_python_integers_and_look_uniform():
    drawn = roc.random_integers(torch.tensor([[5], [-7]]), torch.tensor(2), torch.arange(3))
    expected = [[_slow_draw(seed, 2, k) for k in range(3)] for seed in (5, -7)]
    assert drawn.tolist() == expected
    shares = roc.random_integers(torch.tensor(1), torch.arange(20000)).double() / 2**63
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.01)


def test_auc_borji_equals_a_loop_over_splits_and_thresholds(monkeypatch):
    monkeypatch.setattr(saliency_metrics, "NUM_SPLITS", 7)
    saliency, fixations = random_maps(0), random_looks(1)
    found = single_metrics.auc_borji(saliency, fixations, SEEDS)
    for image, seed in enumerate(SEEDS.tolist()):
        scaled = _slow_scaled(saliency[image])
        positives = scaled[fixations[image].numpy().ravel() > 0]
        areas = []
        for split in range(7):
            pixels = [_slow_draw(seed, split, k) % scaled.size for k in range(len(positives))]
            areas.append(_slow_area(positives, scaled[pixels]))
        assert found[image].item() == pytest.approx(np.mean(areas))


@pytest.mark.parametrize("num_others", [4, 30])
def test_mit_sauc_equals_a_loop_over_equal_subsets(num_others, monkeypatch):
    monkeypatch.setattr(saliency_metrics, "NUM_SPLITS", 7)
    saliency, fixations, others = random_maps(0), random_looks(1), random_looks(4, num=num_others)
    found = single_metrics.sauc(saliency, fixations, others, "mit", SEEDS)
    for image, seed in enumerate(SEEDS.tolist()):
        scaled = _slow_scaled(saliency[image])
        positives = scaled[fixations[image].numpy().ravel() > 0]
        pixels = np.flatnonzero(others[image].numpy())
        areas = []
        for split in range(7):
            order = sorted(pixels, key=lambda pixel: _slow_draw(seed, split, int(pixel)))
            areas.append(_slow_area(positives, scaled[order[: len(positives)]]))
        assert found[image].item() == pytest.approx(np.mean(areas))


@pytest.mark.parametrize("levels", [2, 8, 0])
def test_areas_equal_a_count_of_pairs_and_a_loop_over_thresholds(levels):
    saliency, fixations, others = random_maps(8), random_looks(1), random_looks(4, num=30)
    if levels:
        saliency = (saliency * levels).floor()
    found = (
        single_metrics.auc(saliency, fixations),
        single_metrics.sauc(saliency, fixations, others),
    )
    judd = single_metrics.auc_judd(saliency, fixations)
    for image in range(2):
        values = saliency[image].numpy().ravel()
        count, negative = (m[image].numpy().ravel().astype(int) for m in (fixations, others))
        positives = np.repeat(values, count)
        for area, negatives in zip(found, (values, np.repeat(values, negative)), strict=True):
            less = (negatives < positives[:, None]).mean()
            equal = (negatives == positives[:, None]).mean()
            assert area[image].item() == pytest.approx(less + equal / 2)
        hits, alarms = [0.0], [0.0]
        for threshold in sorted(set(values[count > 0]), reverse=True):
            hits.append(np.mean(values[count > 0] >= threshold))
            alarms.append(np.mean(values[count == 0] >= threshold))
        assert judd[image].item() == pytest.approx(np.trapezoid([*hits, 1], [*alarms, 1]))
