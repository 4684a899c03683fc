"""Random maps and looks of two images, for tests of metrics."""

import numpy as np
import torch

SIZE = (12, 16)
SEEDS = torch.tensor([3, 8])


def random_maps(seed, *size):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 1, *(size or SIZE), generator=generator, dtype=torch.float64)


def count_map(*pixels, size=SIZE):
    """One count map (1, 1, H, W) of (x, y) pixels."""
    counts = torch.zeros(1, 1, *size, dtype=torch.float64)
    for x, y in pixels:
        counts[0, 0, y, x] += 1
    return counts


def random_looks(seed, num=9):
    random = np.random.RandomState(seed)
    points = zip(random.randint(0, 16, 2 * num), random.randint(0, 12, 2 * num), strict=True)
    pixels = list(points)
    return torch.cat([count_map(*pixels[:num], pixels[0]), count_map(*pixels[num:])])
