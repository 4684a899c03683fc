"""Random augmentation of training pictures.

Flips and crops move the fixations and the density, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to training pictures.

    flip: mirror left to right with a probability of 1/2.  crop: show a random part, its sides at
    least 1 - crop of the whole.  colour: largest relative change of brightness, contrast and
    saturation.
    """

    flip: bool = False
    crop: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop", "colour"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 0 and < 1, not {getattr(self, name)}")


def colour_factors(draws: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Map random numbers in 0..1 to factors in 1 - strength to 1 + strength, of the same shape."""
    return 1 + np.float32(strength) * (2 * draws - 1)


def change_colour(image: Tensor, factors: Tensor) -> Tensor:
    """Change the brightness, contrast and saturation of pictures (B, 3, H, W) in 0..1.

    factors: (B, 3), of brightness (multiplies), contrast (around the picture's mean luma) and
    saturation (around each pixel's luma), applied in this order.  Results are clamped to 0..1.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    weights = torch.tensor(LUMA, device=image.device).view(3, 1, 1)
    image = (image * brightness).clamp(0, 1)
    mean = (image * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    image = torch.lerp(mean, image, contrast).clamp(0, 1)
    grey = (image * weights).sum(1, keepdim=True)
    return torch.lerp(grey, image, saturation).clamp(0, 1)
