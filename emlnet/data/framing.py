"""Crops and letterboxes: place a part of a picture on a batch's canvas.

A batch has one canvas (H, W).  A picture, or a part of it, is resized into a frame on the canvas.
The rest is padding, which losses and metrics ignore.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from emlnet.data.maps import Kind, resize

Size = tuple[int, int]
"""(H, W) in pixels."""


class Box(NamedTuple):
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int


class View(NamedTuple):
    """A picture's size, its visible part, and the frame on the canvas that shows this part."""

    size: Size
    part: Box
    frame: Box


def letterbox_box(size: Size, canvas: Size) -> Box:
    """Return the largest centred frame on the canvas with the picture's aspect ratio."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (
        min(whole, max(1, round(scale * side))) for side, whole in zip(size, canvas, strict=True)
    )
    return Box((canvas[0] - height) // 2, (canvas[1] - width) // 2, height, width)


def letterbox(image: Tensor, canvas: Size) -> Tensor:
    """Letterbox equally sized pictures (B, C, h, w) on a canvas of zeros, (B, C, H, W)."""
    top, left, height, width = letterbox_box((image.shape[-2], image.shape[-1]), canvas)
    right, bottom = canvas[1] - left - width, canvas[0] - top - height
    return F.pad(resize(image, (height, width)), (left, right, top, bottom))


def unletterbox(output: Tensor, size: Size, kind: Kind) -> Tensor:
    """Cut the letterboxed part out of an output (B, 1, H, W), resized to the pictures' size.

    A density is scaled to a sum of 1.
    """
    canvas = (output.shape[-2], output.shape[-1])
    part = resize(crop(output, letterbox_box(size, canvas)), size)
    return part - part.logsumexp((2, 3), keepdim=True) if kind == "density" else part


def random_part(size: Size, crop: float, draws: Sequence[float]) -> Box:
    """Return a random crop with the picture's aspect ratio, its sides 1 - crop to 1 of the whole.

    draws: three numbers in [0, 1): for the size, the vertical and the horizontal position.
    """
    share = 1 - crop * draws[0]
    height, width = (max(1, round(share * side)) for side in size)
    top = int(draws[1] * (size[0] - height + 1))
    left = int(draws[2] * (size[1] - width + 1))
    return Box(top, left, height, width)


def draw_on_canvas(
    pictures: Tensor,
    channels: int,
    views: Sequence[View],
    canvas: Size,
    flip: Tensor,
    divisor: int = 1,
) -> Tensor:
    """Draw each picture's part in its frame on a canvas of zeros, (B, C, H, W) float32.

    pictures: uint8, flattened pictures (h, w, C), concatenated.  flip: (B,) bool on the CPU; parts
    to mirror.  divisor: divides all values.
    """
    make = torch.zeros if frames(views, canvas) else torch.empty
    shown = make(len(views), *canvas, channels, device=pictures.device).permute(0, 3, 1, 2)
    flat = torch.split(pictures, [channels * view.size[0] * view.size[1] for view in views])
    # One picture at a time fits the processor's cache.
    for row, values, view, mirrored in zip(shown, flat, views, flip.tolist(), strict=True):
        part = crop(values.view(*view.size, channels).permute(2, 0, 1), view.part)
        frame = crop(row, view.frame)
        if part.shape != frame.shape:
            part = resize(part[None].float(), (view.frame.height, view.frame.width))[0]
        frame.copy_(part.flip(-1) if mirrored else part)
        if divisor != 1:
            frame.div_(divisor)
    return shown


def points_on_canvas(
    points: NDArray[np.int32], view: View, canvas: Size, mirrored: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the fixated pixels (P,), positions in the canvas (H, W), and their counts (P,).

    points: (N, 2) (x, y) in the picture; those outside its part are dropped.
    """
    part, frame = view.part, view.frame
    # A pixel's centre is at its index plus a half.
    share = (points - (part.left, part.top) + 0.5) / (part.width, part.height)
    share = share[((share > 0) & (share < 1)).all(1)]
    if mirrored:
        share[:, 0] = 1 - share[:, 0]
    x, y = (share * (frame.width, frame.height)).astype(np.int64).T
    return np.unique((y + frame.top) * canvas[1] + x + frame.left, return_counts=True)


def frames(views: Sequence[View], canvas: Size) -> tuple[Box, ...] | None:
    """Return the frames of a batch, or None if each fills the canvas."""
    found = tuple(view.frame for view in views)
    return None if all(frame == (0, 0, *canvas) for frame in found) else found


def crop(maps: Tensor, frame: Box) -> Tensor:
    """Return the part of maps (..., H, W) inside a frame, as a view."""
    rows = slice(frame.top, frame.top + frame.height)
    return maps[..., rows, frame.left : frame.left + frame.width]
