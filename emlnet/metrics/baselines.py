"""What a model's scores are held against: maps that need no model, and people themselves."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from emlnet.data.maps import density_map, resize
from emlnet.metrics.roc import draw

UNIFORM_SHARE = 0.01
"""How much of a uniform density a density is mixed with, so that it is 0 nowhere."""

PRIOR_SHARE = 0.1
"""How much of the centre prior half of the observers' density is mixed with."""

_FIT_WIDTH = 160


def mixed_log_density(density: Tensor) -> Tensor:
    """A density (B, 1, H, W), which sums to 1, mixed with 1 % uniform, as a log-density."""
    num_pixels = density.shape[-2] * density.shape[-1]
    return ((1 - UNIFORM_SHARE) * density + UNIFORM_SHARE / num_pixels).log()


def centre_prior(prior: NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    """The mean training density at a size (H, W), a log-density (1, 1, H, W) with 1 % uniform."""
    maps = resize(torch.from_numpy(prior.copy())[None, None], size)
    return mixed_log_density(maps / maps.sum())


def uniform(size: tuple[int, int]) -> Tensor:
    """The log-density (1, 1, H, W) that knows nothing."""
    return torch.full((1, 1, *size), -float(np.log(size[0] * size[1])))


def first_half(observers: NDArray[np.int32], seed: int) -> NDArray[np.bool_]:
    """(N,) which of the fixations are by the half of the observers, rounded down, that predicts.

    observers: (N,) whose fixation each is.  seed: of the draw, such as the image's position.
    """
    known = np.unique(observers)
    keys = draw(torch.tensor(seed), torch.from_numpy(known.astype(np.int64))).numpy()
    chosen = known[np.argsort(keys)[: len(known) // 2]]
    return np.isin(observers, chosen)


def estimate_sigma(fixations: Tensor, density: Tensor) -> float:
    """The sigma, in pixels, of the Gaussian that turned fixation maps into these density maps.

    fixations, density: (B, 1, H, W), each density of any scale.  It is the sigma whose blur
    correlates best with the density maps, to about 1 %; constant maps tell nothing.  Raises
    ValueError when all are.
    """
    pixels = density.flatten(1)
    varied = pixels.amin(1) != pixels.amax(1)
    if not varied.any():
        raise ValueError("the density maps are constant: they show no blur")
    fixations, density = fixations[varied], density[varied]
    scale = max(1, round(fixations.shape[-1] / _FIT_WIDTH))
    small = [F.avg_pool2d(maps.float(), scale) for maps in (fixations, density)]
    counts, wanted = small

    def correlation(log_sigma: float) -> float:
        blurred = density_map(counts, float(np.exp(log_sigma)))
        pairs = zip(blurred.flatten(1), wanted.flatten(1), strict=True)
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]))

    # One hill from a fraction of a pixel to a quarter of the picture: narrowed by golden section.
    low, high = np.log(0.3), np.log(max(1.0, counts.shape[-1] / 4))
    ratio = (np.sqrt(5) - 1) / 2
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    scores = [correlation(at) for at in inner]
    while high - low > 0.01:
        if scores[0] > scores[1]:
            high, inner[1], scores[1] = inner[1], inner[0], scores[0]
            inner[0] = high - ratio * (high - low)
            scores[0] = correlation(inner[0])
        else:
            low, inner[0], scores[0] = inner[0], inner[1], scores[1]
            inner[1] = low + ratio * (high - low)
            scores[1] = correlation(inner[1])
    return float(np.exp((low + high) / 2)) * scale
