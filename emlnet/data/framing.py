"""Crops and letterboxes: which part of a picture is shown, and where on a batch's canvas.

A batch has one canvas (H, W).  A picture of another size, or a part of one, is resized to a frame
on it.  The rest of the canvas is padding, which neither losses nor metrics see.
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
    """A picture's size, the part of it that is shown, and the frame on the canvas to show it in."""

    size: Size
    part: Box
    frame: Box


def letterbox(size: Size, canvas: Size) -> Box:
    """Return the largest centred frame on the canvas with a picture's proportions."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (
        min(whole, max(1, round(scale * side))) for side, whole in zip(size, canvas, strict=True)
    )
    return Box((canvas[0] - height) // 2, (canvas[1] - width) // 2, height, width)


def onto_canvas(image: Tensor, canvas: Size) -> Tensor:
    """Return pictures (B, C, h, w) of one size in their letterbox, (B, C, H, W), zeros around."""
    top, left, height, width = letterbox((image.shape[-2], image.shape[-1]), canvas)
    right, bottom = canvas[1] - left - width, canvas[0] - top - height
    return F.pad(resize(image, (height, width)), (left, right, top, bottom))


def off_canvas(output: Tensor, size: Size, kind: Kind) -> Tensor:
    """Return the letterboxed part of an output (B, 1, H, W), resized to the pictures' size.

    A density is scaled to a sum of 1.
    """
    canvas = (output.shape[-2], output.shape[-1])
    part = resize(cut(output, letterbox(size, canvas)), size)
    return part - part.logsumexp((2, 3), keepdim=True) if kind == "density" else part


def random_part(size: Size, crop: float, draws: Sequence[float]) -> Box:
    """Return a part of a picture with its proportions and sides of 1 - crop to 1 of the whole.

    draws: three numbers in [0, 1): how much is cropped, how far down, how far right.
    """
    share = 1 - crop * draws[0]
    height, width = (max(1, round(share * side)) for side in size)
    top = int(draws[1] * (size[0] - height + 1))
    left = int(draws[2] * (size[1] - width + 1))
    return Box(top, left, height, width)


def show(
    pictures: Tensor,
    channels: int,
    views: Sequence[View],
    canvas: Size,
    flip: Tensor,
    divisor: int = 1,
) -> Tensor:
    """Return each picture's part in its frame on the canvas, (B, C, H, W) float32, zeros around.

    pictures: uint8, one (h, w, C) after another.  flip: (B,) bool on the CPU, which parts to
    mirror.  divisor: of all values.
    """
    make = torch.zeros if frames(views, canvas) else torch.empty
    shown = make(len(views), *canvas, channels, device=pictures.device).permute(0, 3, 1, 2)
    flat = torch.split(pictures, [channels * view.size[0] * view.size[1] for view in views])
    # One picture at a time stays in the processor's cache.
    for row, values, view, mirrored in zip(shown, flat, views, flip.tolist(), strict=True):
        part = cut(values.view(*view.size, channels).permute(2, 0, 1), view.part)
        frame = cut(row, view.frame)
        if part.shape != frame.shape:
            part = resize(part[None].float(), (view.frame.height, view.frame.width))[0]
        frame.copy_(part.flip(-1) if mirrored else part)
        if divisor != 1:
            frame.div_(divisor)
    return shown


def show_points(
    points: NDArray[np.int32], view: View, canvas: Size, mirrored: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the fixated pixels of the canvas, (P,) positions in (H, W), and their counts (P,).

    points: (N, 2) (x, y) in the picture; those outside of its part are dropped.
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
    """Return the frames of a batch, or None when each fills the canvas."""
    found = tuple(view.frame for view in views)
    return None if all(frame == (0, 0, *canvas) for frame in found) else found


def cut(maps: Tensor, frame: Box) -> Tensor:
    """Return the part of maps (..., H, W) inside a frame, as a view."""
    rows = slice(frame.top, frame.top + frame.height)
    return maps[..., rows, frame.left : frame.left + frame.width]
