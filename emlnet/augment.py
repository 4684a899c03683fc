"""Random changes of training pictures; those that move pixels move gaze and density with them."""

from __future__ import annotations

import torch
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""How much red, green and blue add to luma (ITU-R BT.601)."""


def colour_factors(draws: Tensor, strength: float) -> Tensor:
    """Factors between 1 - strength and 1 + strength from draws in 0..1, of the same shape."""
    return 1 + strength * (2 * draws - 1)


def change_colour(image: Tensor, factors: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in 0..1 with other brightness, contrast and saturation, in 0..1.

    factors: (B, 3), of brightness (multiplies), contrast (around the picture's mean luma) and
    saturation (around each pixel's luma), applied in this order.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    weights = torch.tensor(GREY, device=image.device).view(3, 1, 1)
    image = (image * brightness).clamp(0, 1)
    mean = (image * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    image = torch.lerp(mean, image, contrast).clamp(0, 1)
    grey = (image * weights).sum(1, keepdim=True)
    return torch.lerp(grey, image, saturation).clamp(0, 1)
