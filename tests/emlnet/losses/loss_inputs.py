"""Maps and targets for tests of the loss."""

from __future__ import annotations

import torch

from emlnet.data.maps import log_softmax
from emlnet.data.targets import Targets

SIZE = (24, 32)


def noise(seed=0, size=SIZE, num=2):
    return torch.rand(num, 1, *size, generator=torch.Generator().manual_seed(seed))


def make_targets(density, pixels=((0, 5), (0, 90), (1, 33))):
    """Targets of density maps and fixated (image, position)."""
    size = density.shape[-2] * density.shape[-1]
    return Targets(
        density=density / density.sum((2, 3), keepdim=True),
        index=torch.tensor([image * size + position for image, position in pixels]),
        counts=torch.ones(len(pixels)),
        weight=torch.ones(len(density)),
    )


def uniform(kind, size=SIZE):
    if kind == "eml":
        return torch.full((2, 1, *size), 0.5)
    return log_softmax(torch.zeros(2, 1, *size))
