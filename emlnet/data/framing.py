"""Crops and letterboxes: which part of a picture is shown, and where on a batch's canvas.

A batch has one canvas (H, W).  A picture of another size, or a part of one, is resized to a frame
on it.  The rest of the canvas is padding, which neither losses nor metrics see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
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


def show(pictures: Sequence[Tensor], views: Sequence[View], canvas: Size, flip: Tensor) -> Tensor:
    """Return each picture's part in its frame on the canvas, (B, C, H, W) float32, zeros around.

    pictures: (C, h, w) uint8 each.  flip: (B,) bool on the CPU, which parts to mirror.
    """
    channels, device = pictures[0].shape[0], pictures[0].device
    shown = torch.zeros(len(pictures), channels, *canvas, device=device)
    for row, picture, view, mirrored in zip(shown, pictures, views, flip.tolist(), strict=True):
        part = cut(picture[None], view.part).float()
        content = resize(part, (view.frame.height, view.frame.width))
        cut(row[None], view.frame).copy_(content.flip(-1) if mirrored else content)
    return shown


def show_pixels(
    pixels: Tensor, counts: Tensor, views: Sequence[View], canvas: Size, flip: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the pixels of pictures as pixels of the canvas; those outside of a part are dropped.

    pixels: (P, 3) int64 image, y, x.  counts: (P,).  flip: (B,) bool.  Returns (Q,) int64 positions
    in the flattened (B, H, W), each once, ascending, and their counts (Q,).
    """
    device = pixels.device
    part = torch.tensor([view.part for view in views], device=device)
    frame = torch.tensor([view.frame for view in views], device=device)
    image = pixels[:, 0]
    # A pixel's centre is at its index plus a half.
    share = (pixels[:, 1:] - part[image, :2] + 0.5) / part[image, 2:]
    share[:, 1] = torch.where(flip[image], 1 - share[:, 1], share[:, 1])
    kept = ((share > 0) & (share < 1)).all(1)
    inside = (share * frame[image, 2:]).floor().long()
    y, x = (inside + frame[image, :2]).unbind(1)
    index = (image * canvas[0] + y) * canvas[1] + x
    index, position = torch.unique(index[kept], return_inverse=True)
    return index, counts.new_zeros(len(index)).index_add_(0, position, counts[kept])


def frames(views: Sequence[View], canvas: Size) -> tuple[Box, ...] | None:
    """Return the frames of a batch, or None when each fills the canvas."""
    found = tuple(view.frame for view in views)
    return None if all(frame == (0, 0, *canvas) for frame in found) else found


def cut(maps: Tensor, frame: Box) -> Tensor:
    """Return the part of maps (..., H, W) inside a frame, as a view."""
    rows = slice(frame.top, frame.top + frame.height)
    return maps[..., rows, frame.left : frame.left + frame.width]
