"""Operations on maps: fixations to densities, resizing, blurring, scaling."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["density", "eml"]
"""A model's output: `density`, a log-density; `eml`, a saliency map in [0, 1]."""

TINY = 1e-20
"""Added to a saliency map before its logarithm is taken (the `tuebingen` rule)."""


def gaussian_kernel(sigma: Tensor | float, radius: int) -> Tensor:
    """Return (2 * radius + 1,) Gaussian weights that sum to 1; sigma in pixels, may be learned."""
    sigma = torch.as_tensor(sigma, dtype=torch.float32)
    offsets = torch.arange(-radius, radius + 1, device=sigma.device, dtype=sigma.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return kernel / kernel.sum()


def gaussian_blur(
    maps: Tensor, sigma: Tensor | float, radius: int, mode: str = "constant"
) -> Tensor:
    """Blur maps (B, C, H, W) by a separable Gaussian.

    sigma: pixels.  radius: where the kernel is truncated, in pixels.  mode: padding, `constant`
    (zeros) or `replicate`.
    """
    channels = int(maps.shape[1])  # An int even while the model is traced.
    kernel = gaussian_kernel(sigma, radius).to(maps)
    maps = F.pad(maps, (radius,) * 4, mode=mode)
    maps = F.conv2d(maps, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(maps, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def density_map(fixation_map: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Blur a fixation map (B, 1, H, W) by a Gaussian; the result sums to 1 per image.

    sigma: pixels.  truncate: where the Gaussian is truncated, in sigma.
    """
    radius, maps = int(truncate * sigma + 0.5), fixation_map.float()
    rows, columns = (_blur_matrix(length, sigma, radius).to(maps) for length in maps.shape[-2:])
    blurred = rows @ maps @ columns
    return blurred / blurred.sum(dim=(-2, -1), keepdim=True).clamp_min(1e-12)


def _blur_matrix(length: int, sigma: float, radius: int) -> Tensor:
    """Return the symmetric matrix (length, length) that blurs along one side, with zero padding.

    For a large radius two matrix products are much faster than `gaussian_blur`.
    """
    offsets = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    weights = gaussian_kernel(sigma, radius)[radius:]
    return torch.where(offsets <= radius, weights[offsets.clamp(max=radius)], 0)


def resize(maps: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Resize (B, C, h, w) to `size` (H, W); mode `nearest`, `bilinear` or `bicubic`.

    Shrinking is antialiased, except with `nearest`.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if mode == "nearest":
        return F.interpolate(maps, size, mode=mode)
    shrinks = size[0] < maps.shape[-2] or size[1] < maps.shape[-1]
    maps = maps.float() if shrinks else maps  # Antialiasing needs float32.
    return F.interpolate(maps, size, mode=mode, align_corners=False, antialias=shrinks)


def log_softmax(logits: Tensor) -> Tensor:
    """Normalise logits (B, 1, H, W) to a log-density: exp sums to 1 per image."""
    return logits.flatten(1).log_softmax(1).view_as(logits)


def to_log_density(output: Tensor, kind: Kind) -> Tensor:
    """Convert a model's output (B, 1, H, W) to a log-density (natural logarithm)."""
    if kind == "density":
        return output
    return torch.log(to_density(output, kind) + TINY)


def to_density(output: Tensor, kind: Kind) -> Tensor:
    """Convert a model's output (B, 1, H, W) to a density, which sums to 1 per image."""
    if kind == "density":
        return output.exp()
    return output / output.sum(dim=(-2, -1), keepdim=True).clamp_min(TINY)


def min_max(maps: Tensor) -> Tensor:
    """Scale maps (B, 1, H, W) to 0..1 per image; a constant map becomes zeros."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(TINY)


def mirror_average(output: Tensor, mirrored: Tensor, kind: Kind) -> Tensor:
    """Average an output (B, 1, H, W) with the mirrored image's; log-densities as densities."""
    back = mirrored.flip(-1)
    if kind == "density":
        return torch.logaddexp(output, back) - torch.log(torch.tensor(2.0))
    return (output + back) / 2
