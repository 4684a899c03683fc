"""Samples of noise and batches of them, for tests."""

from __future__ import annotations

import numpy as np

from emlnet.data.samples import Decoded, collate


def decoded(points, size=(4, 5), key="train/a", seed=0, **changes):
    """A sample of noise with fixations at points (x, y)."""
    random = np.random.default_rng(seed)
    content = {
        "image": random.integers(0, 256, (*size, 3), dtype=np.uint8),
        "points": np.array(points, np.int32).reshape(-1, 2),
        "observers": np.zeros(len(points), np.int32),
        "density": random.integers(1, 256, size, dtype=np.uint8),
    }
    return Decoded(key=key, **{**content, **changes})


def joined(*samples, weight=None, flip=None, **options):
    """A batch of samples."""
    weights = np.ones(len(samples)) if weight is None else np.array(weight)
    flips = np.zeros(len(samples), bool) if flip is None else np.array(flip)
    return collate(list(samples), weights.astype(np.float32), flips, **options)
