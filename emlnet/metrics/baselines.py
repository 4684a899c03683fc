"""Baselines for a model's scores: maps that need no model, and other observers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emlnet.data.maps import resize
from emlnet.metrics.roc import random_integers

UNIFORM_SHARE = 0.01
"""Share of a uniform density in a mixture, so that no pixel is 0."""

PRIOR_SHARE = 0.1
"""Share of the centre prior in the density of half of the observers."""


def mixed_log_density(density: Tensor) -> Tensor:
    """Mix a density (B, 1, H, W), which sums to 1, with 1 % uniform; return the log-density."""
    num_pixels = density.shape[-2] * density.shape[-1]
    return ((1 - UNIFORM_SHARE) * density + UNIFORM_SHARE / num_pixels).log()


def centre_prior(prior: NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    """Return the mean training density at (H, W) as log-density (1, 1, H, W), 1 % uniform."""
    maps = resize(torch.from_numpy(prior.copy())[None, None], size)
    return mixed_log_density(maps / maps.sum())


def uniform(size: tuple[int, int]) -> Tensor:
    """Return the uniform log-density (1, 1, H, W)."""
    return torch.full((1, 1, *size), -float(np.log(size[0] * size[1])))


def first_half(observers: NDArray[np.int32], seed: int) -> NDArray[np.bool_]:
    """Choose half of the observers, rounded down; return a mask (N,) of their fixations.

    observers: (N,) the observer of each fixation.  seed: for the draw, such as the image's
    position.
    """
    known = np.unique(observers)
    keys = random_integers(torch.tensor(seed), torch.from_numpy(known.astype(np.int64))).numpy()
    chosen = known[np.argsort(keys)[: len(known) // 2]]
    return np.isin(observers, chosen)
