"""Turn a collated batch of uint8 pictures into images and targets on the model's device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emlnet.data.augment import change_colour
from emlnet.data.framing import Box, crop, draw_on_canvas, frames
from emlnet.data.samples import Batch
from emlnet.data.targets import Targets


def prepare_image(batch: Batch, device: torch.device | str = "cpu") -> Tensor:
    """Return a batch's augmented images, (B, 3, H, W) float32 in 0..1, channels last."""
    pictures = batch.image.to(device, non_blocking=True)
    image = draw_on_canvas(pictures, 3, batch.views, batch.canvas, batch.flip, divisor=255)
    if batch.colour is not None:
        image = change_colour(image, batch.colour.to(device, non_blocking=True))
    return image.contiguous(memory_format=torch.channels_last)


def prepare_targets(batch: Batch, device: torch.device | str = "cpu") -> Targets:
    """Return a batch's targets, cropped and mirrored like its images.

    Each density is scaled to a sum of 1; a density of zeros becomes uniform.
    """
    pictures = batch.density.to(device, non_blocking=True)
    density = draw_on_canvas(pictures, 1, batch.views, batch.canvas, batch.flip)
    boxes = frames(batch.views, batch.canvas)
    return Targets(
        density=_normalise(density, boxes),
        index=batch.index.to(device, non_blocking=True),
        counts=batch.counts.to(device, non_blocking=True),
        weight=batch.weight.to(device, non_blocking=True),
        frames=boxes,
    )


def _normalise(density: Tensor, boxes: Sequence[Box] | None) -> Tensor:
    """Scale each density (B, 1, H, W) to a sum of 1; zeros become uniform in their frame."""
    total = density.sum(dim=(-2, -1), keepdim=True)
    height, width = density.shape[-2:]
    density = density.div_(total.clamp_min(1e-12))
    if boxes is None:
        return density.add_((total == 0) / (height * width))
    for row, frame, empty in zip(density, boxes, (total == 0).flatten().tolist(), strict=True):
        if empty:
            crop(row, frame).fill_(1 / (frame.height * frame.width))
    return density
