"""From a collated batch of uint8 pictures to a model's images and targets, on its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emlnet.data.augment import change_colour
from emlnet.data.framing import Box, View, cut, frames, show, show_pixels
from emlnet.data.samples import Batch
from emlnet.data.targets import Targets


def prepare_image(batch: Batch, device: torch.device | str = "cpu") -> Tensor:
    """Return a batch's augmented images, (B, 3, H, W) float32 in 0..1, channels last."""
    image = batch.image.to(device, non_blocking=True)
    if batch.views is None or batch.canvas is None:
        image = _mirror(image, batch.flip, divisor=255)
    else:
        image = show(_split(image, batch.views, 3), batch.views, batch.canvas, batch.flip).div_(255)
    if batch.colour is not None:
        image = change_colour(image, batch.colour.to(device, non_blocking=True))
    return image.contiguous(memory_format=torch.channels_last)


def prepare_targets(batch: Batch, device: torch.device | str = "cpu") -> Targets:
    """Return a batch's targets, cropped and mirrored like its images.

    Each density is scaled to a sum of 1; a density of zeros becomes uniform.
    """
    flip = batch.flip.to(device, non_blocking=True)
    density = batch.density.to(device, non_blocking=True)
    pixels = batch.pixels.to(device, non_blocking=True)
    counts = batch.counts.to(device, non_blocking=True)
    boxes = None
    if batch.views is None or batch.canvas is None:
        density = _mirror(density, batch.flip)
        height, width = density.shape[-2:]
        image, y, x = pixels.unbind(1)
        x = torch.where(flip[image], width - 1 - x, x)
        index = (image * height + y) * width + x
    else:
        density = show(_split(density, batch.views, 1), batch.views, batch.canvas, batch.flip)
        index, counts = show_pixels(pixels, counts, batch.views, batch.canvas, flip)
        boxes = frames(batch.views, batch.canvas)
    return Targets(
        density=_normalise(density, boxes),
        index=index,
        counts=counts,
        weight=batch.weight.to(device, non_blocking=True),
        frames=boxes,
    )


def _mirror(pictures: Tensor, flip: Tensor, divisor: int = 1) -> Tensor:
    """Return (B, C, H, W) uint8 as float32, divided; rows that `flip` (B,) names are mirrored."""
    shown = torch.empty_like(pictures, dtype=torch.float32)
    for row, picture, mirrored in zip(shown, pictures, flip.tolist(), strict=True):
        # One picture at a time stays in the processor's cache.
        row.copy_(picture.flip(-1) if mirrored else picture)
        if divisor != 1:
            row.div_(divisor)
    return shown


def _normalise(density: Tensor, boxes: Sequence[Box] | None) -> Tensor:
    """Scale each density (B, 1, H, W) to a sum of 1; zeros become uniform in their frame."""
    total = density.sum(dim=(-2, -1), keepdim=True)
    height, width = density.shape[-2:]
    density = density.div_(total.clamp_min(1e-12))
    if boxes is None:
        return density.add_((total == 0) / (height * width))
    for row, frame, empty in zip(density, boxes, (total == 0).flatten().tolist(), strict=True):
        if empty:
            cut(row, frame).fill_(1 / (frame.height * frame.width))
    return density


def _split(pictures: Tensor, views: Sequence[View], channels: int) -> list[Tensor]:
    """Return a batch's pictures, (C, H, W) each, from (B, C, H, W) or a flat tensor."""
    if pictures.ndim > 1:
        return list(pictures)
    lengths = [channels * view.size[0] * view.size[1] for view in views]
    return [
        flat.view(*view.size, channels).permute(2, 0, 1)
        for flat, view in zip(torch.split(pictures, lengths), views, strict=True)
    ]
