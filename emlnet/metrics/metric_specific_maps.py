"""The best saliency map of a density model for each metric, as on the MIT/Tuebingen benchmark.

Source: pysaliency 0.2.22, EqualizedSaliencyMapModel, ShuffledAUCSaliencyMapModel,
BluringSaliencyMapModel and SIMSaliencyMapModel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emlnet.data.maps import density_map, resize
from emlnet.metrics.roc import random_integers
from emlnet.metrics.saliency_metrics import metric_names, score

LOWEST = -1e30
"""A finite log-density below that of any positive density."""
SAMPLED_SIGMA = 4.0
"""Sigma in pixels at which bilinear resizing loses nothing."""


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
    """Compute the `tuebingen` metrics of a density model, each with the best map for it.

    sigma: sigma in pixels of the Gaussian that made `density`.  num_fixations: fixations per image
    in the data set.  The other arguments and the result are those of `score`.
    """
    inputs: dict[str, Any] = {
        "fixations": fixations,
        "density": density,
        "nonfixations": nonfixations,
        "log_density": log_density,
        "baseline_log_density": baseline_log_density,
    }
    maps = density_maps(log_density, baseline_log_density, sigma, num_fixations, seeds)
    plain = log_density.exp()
    return {
        name: score(maps.get(name, plain), **inputs, names=(name,))[name]
        for name in metric_names("tuebingen", ("saliency", *inputs))
    }


def density_maps(
    log_density: Tensor,
    baseline_log_density: Tensor,
    sigma: float,
    num_fixations: int,
    seeds: Tensor,
) -> dict[str, Tensor]:
    """Return the best map (B, 1, H, W) of each metric for which the density p itself is not best.

    sAUC: log p - log baseline; the baseline is the centre bias.  CC and KL: p, blurred like density
    maps.  SIM: `expected_similarity_map`.
    NSS and AUC need no other map: pysaliency equalises p for AUC, but this keeps the order of
    pixels.
    Arguments as for `score_density_maps`.
    """
    blurred = density_map(log_density.exp(), sigma)
    return {
        "cc": blurred,
        "kl": blurred,
        "sim": expected_similarity_map(log_density, sigma, num_fixations, seeds),
        # Where the density is 0, a finite lowest value keeps the order.
        "sauc": log_density.clamp_min(LOWEST) - baseline_log_density,
    }


def expected_similarity_map(
    log_density: Tensor, sigma: float, num_fixations: int, seeds: Tensor, num_samples: int = 100
) -> Tensor:
    """Return the map with the highest mean SIM to density maps of fixations drawn from the model.

    log_density: (B, 1, H, W), natural log.  sigma: pixels.  seeds: (B,) int64; draws depend only on
    them.  Returns (B, 1, H, W), which sums to 1.
    The mean of min(map, sample) is concave.  Its derivative at a pixel is the share of samples that
    exceed the map there.  At the optimum this share is the same at all pixels.  So each pixel's
    value is one quantile of its samples; the quantile is chosen so that the map sums to 1.
    pysaliency finds the same map by stochastic gradients.  For speed, the map is computed at a
    reduced size, at which sigma is `SAMPLED_SIGMA`.
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
    """Draw fixations from a density (1, H, W) and blur them: (num_samples, 1, H, W) float32."""
    device = density.device
    samples, columns = (torch.arange(n, device=device) for n in (num_samples, num_fixations))
    share = random_integers(seed, samples[:, None], columns).double() / 2.0**63
    cumulative = density.double().flatten().cumsum(0)
    pixels = torch.searchsorted(cumulative, share * cumulative[-1])
    pixels = pixels.clamp_(max=len(cumulative) - 1)
    counts = torch.zeros(num_samples, len(cumulative), device=device)
    counts.scatter_add_(1, pixels, torch.ones_like(pixels, dtype=counts.dtype))
    return density_map(counts.view(num_samples, *density.shape), sigma)


def _quantile_of_samples(samples: Tensor) -> Tensor:
    """Return a map (N,) that sums to 1: at each pixel, the same quantile of the samples (S, N)."""
    ordered = samples.sort(dim=0).values
    sums = ordered.sum(1, dtype=torch.float64)
    # The sums increase, and their mean is 1.
    upper = torch.searchsorted(sums, sums.new_ones(1)).clamp(1, len(sums) - 1)
    below, above = sums[upper - 1], sums[upper]
    part = ((1 - below) / (above - below).clamp_min(1e-12)).clamp(0, 1).to(samples)
    return torch.lerp(ordered[upper - 1], ordered[upper], part)[0]
