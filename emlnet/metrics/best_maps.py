"""The saliency map that serves a density model best under each metric, as on MIT/Tuebingen's board.

Source: pysaliency 0.2.22, EqualizedSaliencyMapModel, ShuffledAUCSaliencyMapModel,
BluringSaliencyMapModel and SIMSaliencyMapModel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emlnet.data.maps import density_map, gaussian_blur, resize
from emlnet.metrics import saliency_metrics
from emlnet.metrics.roc import draw

LOWEST = -1e30
"""A log-density below all that come of a density above 0."""
SAMPLED_SIGMA = 4.0
"""Pixels: a blur that loses nothing by bilinear resizing."""


def density_maps(
    log_density: Tensor,
    baseline_log_density: Tensor,
    sigma: float,
    num_fixations: int,
    seeds: Tensor,
    num_samples: int = 100,
) -> dict[str, Tensor]:
    """Maps (B, 1, H, W) by metric: nss, cc, kl, sim, auc, sauc.

    log_density: (B, 1, H, W), natural log.  baseline_log_density: the same, of where people look
    whatever the picture, as sAUC's negatives do: the training images' mean.  sigma: pixels, of the
    blur in the density maps that the model is scored against.  num_fixations: fixations per image
    of the data.  seeds: (B,) int64, one per image.
    NSS takes p; AUC too, since equalising p keeps its order; sAUC log p - log baseline; CC and KL
    p blurred as density maps are; SIM `expected_similarity_map`.
    """
    density = log_density.exp()
    blurred = gaussian_blur(density, sigma, int(4 * sigma + 0.5))
    return {
        "nss": density,
        "cc": blurred,
        "kl": blurred,
        "sim": expected_similarity_map(log_density, sigma, num_fixations, seeds, num_samples),
        "auc": density,
        # Where the density is 0 the least finite number keeps the order.
        "sauc": log_density.clamp_min(LOWEST) - baseline_log_density,
    }


def expected_similarity_map(
    log_density: Tensor, sigma: float, num_fixations: int, seeds: Tensor, num_samples: int = 100
) -> Tensor:
    """The map with the highest mean SIM to density maps of fixations drawn from the model.

    log_density: (B, 1, H, W), natural log.  sigma: pixels.  seeds: (B,) int64; draws depend on
    nothing else.  Returns (B, 1, H, W), which sums to 1.
    The mean of min(map, sample) is concave, and a pixel gains as long as samples exceed it there.
    At the best map all pixels gain alike, so each is the same quantile of its samples, the one
    with a sum of 1.  pysaliency climbs to the same map by stochastic gradients.  A map blurred so
    far is found at a fraction of its size, where sigma is still `SAMPLED_SIGMA` pixels.
    """
    height, width = log_density.shape[-2:]
    step = max(1, int(sigma / SAMPLED_SIGMA))
    size = (max(1, height // step), max(1, width // step))
    density = resize(log_density.exp(), size)
    best = [
        _quantile_of_samples(
            _sample_density_maps(row, sigma / step, num_fixations, seed, num_samples).flatten(1)
        )
        for row, seed in zip(density, seeds, strict=True)
    ]
    found = resize(torch.stack(best).view_as(density) if best else density, (height, width))
    return found / found.sum(dim=(-2, -1), keepdim=True)


def _sample_density_maps(
    density: Tensor, sigma: float, num_fixations: int, seed: Tensor, num_samples: int
) -> Tensor:
    """(num_samples, 1, H, W) float32 density maps of fixations drawn from a density (1, H, W)."""
    device = density.device
    samples, columns = (torch.arange(n, device=device) for n in (num_samples, num_fixations))
    share = draw(seed, samples[:, None], columns).double() / 2.0**63
    chance = density.double().flatten().cumsum(0)
    pixels = torch.searchsorted(chance, share * chance[-1]).clamp_(max=len(chance) - 1)
    counts = torch.zeros(num_samples, len(chance), device=device)
    counts.scatter_add_(1, pixels, torch.ones_like(pixels, dtype=counts.dtype))
    return density_map(counts.view(num_samples, *density.shape), sigma)


def _quantile_of_samples(samples: Tensor) -> Tensor:
    """(N,): one quantile of samples (S, N) at every pixel, such that it sums to 1."""
    ordered = samples.sort(dim=0).values
    sums = ordered.sum(1, dtype=torch.float64)
    # The sums rise, and their mean is 1.
    upper = torch.searchsorted(sums, sums.new_ones(1)).clamp(1, len(sums) - 1)
    below, above = sums[upper - 1], sums[upper]
    part = ((1 - below) / (above - below).clamp_min(1e-12)).clamp(0, 1).to(samples)
    return torch.lerp(ordered[upper - 1], ordered[upper], part)[0]


def score_density_maps(
    log_density: Tensor,
    fixations: Tensor,
    density: Tensor,
    *,
    baseline_log_density: Tensor,
    nonfixations: Tensor,
    sigma: float,
    num_fixations: int,
    seeds: Tensor,
) -> dict[str, Tensor]:
    """`tuebingen` scores of a density model, each metric with the map that is best for it.

    Arguments as for `metrics.score` and `density_maps`.  Returns (B,) float64 each: nss, cc, kl,
    sim, auc, sauc, ig.
    """
    maps = density_maps(log_density, baseline_log_density, sigma, num_fixations, seeds)
    return {
        "nss": saliency_metrics.nss(maps["nss"], fixations),
        "cc": saliency_metrics.cc(maps["cc"], density),
        "kl": saliency_metrics.kl(maps["kl"], density),
        "sim": saliency_metrics.sim(maps["sim"], density),
        "auc": saliency_metrics.auc(maps["auc"], fixations),
        "sauc": saliency_metrics.sauc(maps["sauc"], fixations, nonfixations),
        "ig": saliency_metrics.ig(log_density, fixations, baseline_log_density),
    }
