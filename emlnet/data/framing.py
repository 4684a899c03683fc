"""What part of a picture is shown, and where on the canvas: crops, letterboxes, and their maps.

A batch has one canvas (H, W). A picture of another size, or a part of one, is resized to a frame on
it; what the frame leaves is padding, which neither losses nor metrics see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from emlnet.data.maps import Kind, resize

if TYPE_CHECKING:
    from emlnet.data.samples import Targets

Size = tuple[int, int]
"""(H, W) in pixels."""


class Frame(NamedTuple):
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int


class View(NamedTuple):
    """A picture of a size, the part of it that is shown, and where on the canvas."""

    size: Size
    part: Frame
    frame: Frame


def letterbox(size: Size, canvas: Size) -> Frame:
    """The largest frame in the middle of the canvas with the proportions of a picture."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (
        min(whole, max(1, round(scale * side))) for side, whole in zip(size, canvas, strict=True)
    )
    return Frame((canvas[0] - height) // 2, (canvas[1] - width) // 2, height, width)


def onto_canvas(image: Tensor, canvas: Size) -> Tensor:
    """Pictures (B, C, h, w) of one size in their letterbox, (B, C, H, W), zeros around them."""
    top, left, height, width = letterbox((image.shape[-2], image.shape[-1]), canvas)
    right, bottom = canvas[1] - left - width, canvas[0] - top - height
    return F.pad(resize(image, (height, width)), (left, right, top, bottom))


def off_canvas(output: Tensor, size: Size, kind: Kind) -> Tensor:
    """What an output (B, 1, H, W) says of pictures of a size in its letterbox, at their size.

    A density is scaled to a sum of 1.
    """
    canvas = (output.shape[-2], output.shape[-1])
    part = resize(cut(output, letterbox(size, canvas)), size)
    return part - part.logsumexp((2, 3), keepdim=True) if kind == "density" else part


def random_part(size: Size, crop: float, draws: Sequence[float]) -> Frame:
    """A part of a picture with its proportions, its sides between 1 - crop and 1 of the whole.

    draws: three numbers in 0..1 (below 1): how much is left out, how far down, how far right.
    """
    share = 1 - crop * draws[0]
    height, width = (max(1, round(share * side)) for side in size)
    top = int(draws[1] * (size[0] - height + 1))
    left = int(draws[2] * (size[1] - width + 1))
    return Frame(top, left, height, width)


def show(pictures: Sequence[Tensor], views: Sequence[View], canvas: Size, flip: Tensor) -> Tensor:
    """(B, C, H, W) float32: each picture's part, (C, h, w) uint8, in its frame; zeros around it.

    flip: (B,) bool on the CPU, whether to mirror what the frame shows.
    """
    channels, device = pictures[0].shape[0], pictures[0].device
    shown = torch.zeros(len(pictures), channels, *canvas, device=device)
    for place, picture, view, mirrored in zip(shown, pictures, views, flip.tolist(), strict=True):
        content = resize(
            cut(picture[None], view.part).float(), (view.frame.height, view.frame.width)
        )
        cut(place[None], view.frame).copy_(content.flip(-1) if mirrored else content)
    return shown


def show_pixels(
    pixels: Tensor, counts: Tensor, views: Sequence[View], canvas: Size, flip: Tensor
) -> tuple[Tensor, Tensor]:
    """Fixated pixels of pictures as those of the canvas; what a part leaves out is dropped.

    pixels: (P, 3) int64 image, y, x.  counts: (P,).  flip: (B,) bool.  Returns (Q,) int64 positions
    in the flattened (B, H, W), each once, rising, and their counts (Q,).
    """
    device = pixels.device
    part, frame = (
        torch.tensor([getattr(view, name) for view in views], device=device)
        for name in ("part", "frame")
    )
    image = pixels[:, 0]
    # A pixel's centre is at its index plus a half.
    along = (pixels[:, 1:] - part[image, :2] + 0.5) / part[image, 2:]
    along[:, 1] = torch.where(flip[image], 1 - along[:, 1], along[:, 1])
    kept = ((along > 0) & (along < 1)).all(1)
    inside = (along * frame[image, 2:]).floor().long()
    y, x = (inside + frame[image, :2]).unbind(1)
    index = (image * canvas[0] + y) * canvas[1] + x
    index, place = torch.unique(index[kept], return_inverse=True)
    return index, counts.new_zeros(len(index)).index_add_(0, place, counts[kept])


def frames(views: Sequence[View], canvas: Size) -> tuple[Frame, ...] | None:
    """The frames of a batch, None when each fills the canvas."""
    found = tuple(view.frame for view in views)
    return None if all(frame == (0, 0, *canvas) for frame in found) else found


def by_frame(
    output: Tensor,
    targets: Targets,
    kind: Kind,
    measure: Callable[[Tensor, Targets], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """What `measure` finds, (B,) by name, where each output is cut to its frame.

    output: (B, 1, H, W).  A density is scaled to a sum of 1 in its frame.  Images with equal frames
    are measured together: padding takes no part, whatever is measured.
    """
    if targets.frames is None:
        return measure(output, targets)
    rows: dict[Frame, list[int]] = {}
    for row, frame in enumerate(targets.frames):
        rows.setdefault(frame, []).append(row)
    parts = []
    for frame, chosen in rows.items():
        part = cut(output[chosen], frame)
        if kind == "density":
            part = part - part.logsumexp((2, 3), keepdim=True)
        parts.append(measure(part, _cut_targets(targets, chosen, frame)))
    order = torch.tensor([*chain(*rows.values())], device=output.device).argsort()
    return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}


def _cut_targets(targets: Targets, rows: list[int], frame: Frame) -> Targets:
    """The targets of some images, cut to the frame that they share."""
    height, width = targets.size
    place = torch.full_like(targets.weight, -1, dtype=torch.int64)
    place[rows] = torch.arange(len(rows), device=place.device)
    owner = place[targets.owner]
    index = targets.index[owner >= 0]
    y, x = index // width % height - frame.top, index % width - frame.left
    return replace(
        targets,
        density=cut(targets.density[rows], frame).contiguous(),
        index=(owner[owner >= 0] * frame.height + y) * frame.width + x,
        counts=targets.counts[owner >= 0],
        weight=targets.weight[rows],
        frames=None,
    )


def cut(maps: Tensor, frame: Frame) -> Tensor:
    """What maps (..., H, W) hold in a frame: a view of them."""
    rows = slice(frame.top, frame.top + frame.height)
    return maps[..., rows, frame.left : frame.left + frame.width]
