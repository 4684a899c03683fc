"""The map per metric of a density model."""

import pytest
import torch

from emlnet.data import maps
from emlnet.metrics import metric_specific_maps, saliency_metrics
from tests.emlnet import single_metrics

SIGMA, NUM_FIXATIONS = 1.5, 40
SEEDS = torch.tensor([1, 2])


def _log_density(seed, scale=4.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, 1, 6, 8, generator=generator)
    return maps.log_softmax(maps.resize(logits, (24, 32)))


def _score(log_density, density, baseline, fixations):
    return metric_specific_maps.score_density_maps(
        log_density,
        fixations,
        density,
        baseline_log_density=baseline,
        nonfixations=fixations.flip(-1),
        sigma=SIGMA,
        num_fixations=NUM_FIXATIONS,
        seeds=SEEDS,
    )


def _samples(log_density, seed):
    row = log_density.exp()[0]
    return metric_specific_maps._sample_density_maps(
        row, SIGMA, NUM_FIXATIONS, torch.tensor(seed), 200
    )


def test_the_similarity_map_beats_the_density_on_samples_that_it_has_not_seen():
    log_density = _log_density(0)
    best = metric_specific_maps.expected_similarity_map(log_density, SIGMA, NUM_FIXATIONS, SEEDS)
    torch.testing.assert_close(best.sum(dim=(1, 2, 3)), torch.ones(2))
    unseen = _samples(log_density, seed=99)

    def similarity(saliency):
        return single_metrics.sim(saliency[:1].expand_as(unseen), unseen).mean()

    blurred = maps.gaussian_blur(log_density.exp(), SIGMA, 6)
    assert similarity(best) > similarity(log_density.exp()) + 0.01
    assert similarity(best) > similarity(blurred) + 0.005


def test_no_step_between_two_pixels_raises_the_mean_similarity():
    samples = torch.rand(9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples /= samples.sum(1, keepdim=True)
    best = metric_specific_maps._quantile_of_samples(samples)

    def gain(saliency):
        return torch.minimum(saliency, samples).sum(1).mean()

    assert best.sum().item() == pytest.approx(1)
    for source in range(12):
        for target in range(12):
            moved = best.clone()
            moved[source] -= 1e-4
            moved[target] += 1e-4
            assert gain(moved) <= gain(best) + 1e-12


def test_each_metric_gets_its_map_and_ig_the_log_density():
    log_density, baseline = _log_density(0), _log_density(1)
    density = _log_density(2).exp()
    fixations = torch.zeros(2, 1, 24, 32)
    fixations[:, 0, 3:6, 5] = 2
    nonfixations = fixations.flip(-1)
    scores = _score(log_density, density, baseline, fixations)
    blurred = maps.density_map(log_density.exp(), SIGMA)
    plain = saliency_metrics.score(
        log_density.exp(),
        fixations,
        density,
        log_density=log_density,
        baseline_log_density=baseline,
        nonfixations=nonfixations,
    )
    assert list(scores) == list(plain)
    for name in ("nss", "auc", "ig"):
        assert torch.equal(scores[name], plain[name])
    assert torch.equal(scores["kl"], single_metrics.kl(blurred, density))
    assert torch.equal(scores["cc"], single_metrics.cc(blurred, density))
    shuffled = single_metrics.sauc(log_density - baseline, fixations, nonfixations)
    assert torch.equal(scores["sauc"], shuffled)


def test_a_density_may_be_zero_where_nobody_looks():
    log_density = _log_density(0)
    log_density[:, :, :2] = -torch.inf
    log_density = maps.log_softmax(log_density)
    fixations = torch.zeros(2, 1, 24, 32)
    fixations[:, 0, 3:6, 5] = 2
    scores = _score(log_density, _log_density(2).exp(), _log_density(1), fixations)
    assert all(values.isfinite().all() for values in scores.values())


def test_a_wide_blur_is_served_as_well_at_a_fraction_of_the_size(monkeypatch):
    log_density = maps.log_softmax(maps.resize(_log_density(0), (120, 160)))[:1]
    unseen = metric_specific_maps._sample_density_maps(
        log_density.exp()[0], 12.0, NUM_FIXATIONS, torch.tensor(99), 60
    )

    def similarity():
        best = metric_specific_maps.expected_similarity_map(
            log_density, 12.0, NUM_FIXATIONS, SEEDS[:1]
        )
        assert best.shape == log_density.shape
        return single_metrics.sim(best.expand_as(unseen), unseen).mean().item()

    small = similarity()
    monkeypatch.setattr(metric_specific_maps, "SAMPLED_SIGMA", 100.0)
    assert small == pytest.approx(similarity(), abs=0.003)
