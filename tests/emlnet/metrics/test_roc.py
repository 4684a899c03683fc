"""Areas under curves against slow versions that follow the definitions."""

import math

import numpy as np
import pytest
import torch

from emlnet.metrics import flat_maps, roc, saliency_metrics
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
    drawn = roc.draw(torch.tensor([[5], [-7]]), torch.tensor(2), torch.arange(3))
    expected = [[_slow_draw(seed, 2, k) for k in range(3)] for seed in (5, -7)]
    assert drawn.tolist() == expected
    shares = roc.draw(torch.tensor(1), torch.arange(20000)).double() / 2**63
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.01)


def test_auc_borji_equals_a_loop_over_splits_and_thresholds():
    saliency, fixations = random_maps(0), random_looks(1)
    found = saliency_metrics.auc_borji(saliency, fixations, SEEDS, num_splits=7)
    for image, seed in enumerate(SEEDS.tolist()):
        scaled = _slow_scaled(saliency[image])
        positives = scaled[fixations[image].numpy().ravel() > 0]
        areas = []
        for split in range(7):
            pixels = [_slow_draw(seed, split, k) % scaled.size for k in range(len(positives))]
            areas.append(_slow_area(positives, scaled[pixels]))
        assert found[image].item() == pytest.approx(np.mean(areas))


@pytest.mark.parametrize("num_others", [4, 30])
def test_mit_sauc_equals_a_loop_over_equal_subsets(num_others):
    saliency, fixations, others = random_maps(0), random_looks(1), random_looks(4, num=num_others)
    found = saliency_metrics.sauc(saliency, fixations, others, "mit", SEEDS, num_splits=7)
    for image, seed in enumerate(SEEDS.tolist()):
        scaled = _slow_scaled(saliency[image])
        positives = scaled[fixations[image].numpy().ravel() > 0]
        pixels = np.flatnonzero(others[image].numpy())
        areas = []
        for split in range(7):
            order = sorted(pixels, key=lambda pixel: _slow_draw(seed, split, int(pixel)))
            areas.append(_slow_area(positives, scaled[order[: len(positives)]]))
        assert found[image].item() == pytest.approx(np.mean(areas))


def test_random_areas_come_near_the_exact_ones():
    saliency, fixations = random_maps(0, 60, 80), torch.zeros(2, 1, 60, 80, dtype=torch.float64)
    fixations[:, 0, 10:20, 10:20] = 1
    saliency[:, 0, 10:20, 10:20] += 0.5
    exact = saliency_metrics.auc(saliency, fixations)
    borji = saliency_metrics.auc_borji(saliency, fixations, SEEDS)
    torch.testing.assert_close(borji, exact, rtol=0, atol=0.03)


@pytest.mark.parametrize("levels", [2, 8, 0])
def test_areas_equal_a_count_of_pairs_and_a_loop_over_thresholds(levels):
    saliency, fixations, others = random_maps(8), random_looks(1), random_looks(4, num=30)
    if levels:
        saliency = (saliency * levels).floor()
    found = (
        saliency_metrics.auc(saliency, fixations),
        saliency_metrics.sauc(saliency, fixations, others),
    )
    judd = saliency_metrics.auc_judd(saliency, fixations)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "change",
    [
        lambda m: m,
        lambda m: m * 0 + 3,
        lambda m: (m * 8).floor(),
        lambda m: m**30,
        lambda m: m * 1e-300,
        lambda m: (m - 0.5) * 3e38,
        lambda m: m * 1e-3 + 1e6,
    ],
)
def test_bins_by_cells_are_the_searched_bins(change, dtype):
    maps = change(random_maps(9)).to(dtype)
    checked, gaze = flat_maps.read({"m": maps}, {"fixations": random_looks(1)}, ["fixations"])
    ranking = roc.Ranking.of(checked["m"], gaze["fixations"])
    assert torch.equal(ranking.bins, roc._bins(maps.flatten(1), ranking.values))
