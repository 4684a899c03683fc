"""A batch of bytes becomes what models and losses take, on their device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emlnet.data.augment import change_colour
from emlnet.data.framing import Frame, View, cut, frames, show, show_pixels
from emlnet.data.samples import Batch, Targets


def prepare_image(batch: Batch, device: torch.device | str = "cpu") -> Tensor:
    """(B, 3, H, W) float32 in 0..1 on the device, channels last; as shown, mirrored, coloured."""
    image = batch.image.to(device, non_blocking=True)
    if batch.views is None or batch.canvas is None:
        image = _mirrored(image, batch.flip, 255)
    else:
        pictures = _pictures(image, batch.views, 3)
        image = show(pictures, batch.views, batch.canvas, batch.flip).div_(255)
    if batch.colour is not None:
        image = change_colour(image, batch.colour.to(device, non_blocking=True))
    return image.contiguous(memory_format=torch.channels_last)


def prepare_targets(batch: Batch, device: torch.device | str = "cpu") -> Targets:
    """A batch's gaze on the device, as shown and mirrored, each density scaled to a sum of 1.

    A density of zeros becomes uniform.
    """
    flip = batch.flip.to(device, non_blocking=True)
    density = batch.density.to(device, non_blocking=True)
    pixels = batch.pixels.to(device, non_blocking=True)
    counts = batch.counts.to(device, non_blocking=True)
    where = None
    if batch.views is None or batch.canvas is None:
        density = _mirrored(density, batch.flip)
        height, width = density.shape[-2:]
        image, y, x = pixels.unbind(1)
        x = torch.where(flip[image], width - 1 - x, x)
        index = (image * height + y) * width + x
    else:
        pictures = _pictures(density, batch.views, 1)
        density = show(pictures, batch.views, batch.canvas, batch.flip)
        index, counts = show_pixels(pixels, counts, batch.views, batch.canvas, flip)
        where = frames(batch.views, batch.canvas)
    return Targets(
        density=_scaled(density, where),
        index=index,
        counts=counts,
        weight=batch.weight.to(device, non_blocking=True),
        frames=where,
    )


def _mirrored(pictures: Tensor, flip: Tensor, divisor: int = 1) -> Tensor:
    """(B, C, H, W) uint8 as float32, divided; those that `flip` (B,) on the CPU names mirrored."""
    shown = torch.empty_like(pictures, dtype=torch.float32)
    for row, mirrored in enumerate(flip.tolist()):
        picture, place = pictures[row : row + 1], shown[row : row + 1]
        # A picture at a time, which stays in the processor's cache.
        place.copy_(picture.flip(-1) if mirrored else picture)
        if divisor != 1:
            place.div_(divisor)
    return shown


def _scaled(density: Tensor, where: Sequence[Frame] | None) -> Tensor:
    """Each density (B, 1, H, W) with a sum of 1; zeros become uniform, in their frame."""
    total = density.sum(dim=(-2, -1), keepdim=True)
    height, width = density.shape[-2:]
    density = density.div_(total.clamp_min(1e-12))
    if where is None:
        # Nothing is added to others: the sum of zeros alone is zero.
        return density.add_((total == 0) / (height * width))
    for row, frame, empty in zip(density, where, (total == 0).flatten().tolist(), strict=True):
        if empty:
            cut(row, frame).fill_(1 / (frame.height * frame.width))
    return density


def _pictures(joined: Tensor, views: Sequence[View], channels: int) -> list[Tensor]:
    """A batch's pictures one by one, (C, H, W) of each its size."""
    if joined.ndim > 1:
        return list(joined)
    lengths = [channels * view.size[0] * view.size[1] for view in views]
    return [
        flat.view(*view.size, channels).permute(2, 0, 1)
        for flat, view in zip(torch.split(joined, lengths), views, strict=True)
    ]
