"""Calibration of a density: the share of fixations in its highest-density regions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVELS = tuple(level / 10 for level in range(1, 10))
"""Shares of the density's mass; a region with 0.3 of it should hold 0.3 of the fixations."""


def coverage(
    log_density: NDArray[np.floating], fixations: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the share of fixations in the smallest region that holds each of `LEVELS` of the mass.

    log_density: (H, W), natural log.  fixations: (H, W) counts.
    Returns (9,), NaN without fixations.  A share below its level means that the density is too
    peaked; a share above it, too flat.  Where equal pixels cross a region's edge, each counts in
    part.
    Source: highest density regions, Hyndman 1996.
    """
    density = np.exp(log_density.ravel())
    ordered = np.sort(density)
    mass = np.concatenate([[0], np.cumsum(ordered, dtype=np.float64)])
    mass /= mass[-1]
    seen = np.flatnonzero(fixations)
    counts, values = fixations.ravel()[seen].astype(np.float64), density[seen]
    # Mass of the pixels above a fixation's value (`inner`), and including it (`outer`).
    inner = 1 - mass[np.searchsorted(ordered, values, side="right")]
    outer = 1 - mass[np.searchsorted(ordered, values, side="left")]
    levels = np.array(LEVELS)[:, None]
    inside = ((levels - inner) / np.maximum(outer - inner, 1e-300)).clip(0, 1)
    with np.errstate(invalid="ignore"):
        share: NDArray[np.float64] = (inside * counts).sum(1) / counts.sum()
    return share
