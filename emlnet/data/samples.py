"""Photographs with fixations: as stored, as decoded, and in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emlnet.data.framing import Box, Size, View, letterbox_box, points_on_canvas


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A photograph and its fixations as stored: pictures are encoded.

    key: `split/stem`, unique in a data set.  image: the photograph's file, byte for byte.
    points: (N, 2) int32 fixations (x, y), zero-based pixels of the upright photograph; may repeat.
    observers: (N,) int32, the observer of each fixation, -1 if unknown.
    density: the density map's file, 8-bit grey PNG.
    timing: (N, 2) float32 onset and duration in ms, nan if unknown; None if no time is known.
    """

    key: str
    image: bytes
    points: NDArray[np.int32]
    observers: NDArray[np.int32]
    density: bytes
    timing: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A sample whose pictures are pixels.

    image: (H, W, 3) uint8 RGB.  points: (N, 2) int32 (x, y).  observers: (N,) int32.
    density: (H, W) uint8, any scale.
    """

    key: str
    image: NDArray[np.uint8]
    points: NDArray[np.int32]
    observers: NDArray[np.int32]
    density: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Collated samples; pictures stay uint8 until they are on the device.

    image, density: uint8, flattened pictures (h, w, 3) and maps (h, w) of any scale, concatenated.
    index: (P,) int64, fixated pixels as positions in the flattened (B, H, W) of the canvas.
    counts: (P,) float32, fixations on that pixel.
    weight: (B,) float32, 1 for a sample; 0 for a filler in the last step of an epoch.
    flip: (B,) bool, samples to mirror left to right.
    canvas: (H, W).  views: the visible part and the frame of each picture.
    colour: (B, 3) float32 factors of brightness, contrast and saturation, or None.
    """

    keys: tuple[str, ...]
    image: Tensor
    density: Tensor
    index: Tensor
    counts: Tensor
    weight: Tensor
    flip: Tensor
    canvas: Size
    views: tuple[View, ...]
    colour: Tensor | None = None

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory."""
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self).items() if torch.is_tensor(value)
        }
        return replace(self, **pinned)


def collate(
    samples: Sequence[Decoded],
    weight: NDArray[np.float32],
    flip: NDArray[np.bool_],
    *,
    canvas: Size | None = None,
    stretch: bool = False,
    parts: Sequence[Box] | None = None,
    colour: NDArray[np.float32] | None = None,
) -> Batch:
    """Join decoded samples into a batch.

    weight: (B,) 1 or 0.  flip: (B,) bool.  canvas: (H, W) for pictures of any size; without it all
    must have one size.  stretch: fill the canvas, without keeping the aspect ratio.
    parts: the part of each picture to show; a part without fixations becomes the whole picture.
    colour: (B, 3) factors.
    Raises ValueError if the sizes differ and no canvas is given.
    """
    sizes: list[Size] = [sample.density.shape for sample in samples]
    if canvas is None and len(set(sizes)) != 1:
        names = ", ".join(f"{s.key} {s.density.shape}" for s in samples)
        raise ValueError(f"images of different sizes cannot share a batch: {names}")
    height, width = canvas = canvas or sizes[0]
    views, index, counts = [], [], []
    for position, (sample, size) in enumerate(zip(samples, sizes, strict=True)):
        part = _part(sample, parts[position]) if parts else Box(0, 0, *size)
        frame = Box(0, 0, *canvas) if stretch else letterbox_box(size, canvas)
        views.append(View(size, part, frame))
        pixels, number = points_on_canvas(sample.points, views[-1], canvas, bool(flip[position]))
        index.append(pixels + position * height * width)
        counts.append(number.astype(np.float32))
    return Batch(
        keys=tuple(s.key for s in samples),
        image=torch.from_numpy(np.concatenate([s.image.reshape(-1) for s in samples])),
        density=torch.from_numpy(np.concatenate([s.density.reshape(-1) for s in samples])),
        index=torch.from_numpy(np.concatenate(index)),
        counts=torch.from_numpy(np.concatenate(counts)),
        weight=torch.from_numpy(np.asarray(weight, np.float32)),
        flip=torch.from_numpy(np.asarray(flip, np.bool_)),
        canvas=canvas,
        views=tuple(views),
        colour=None if colour is None else torch.from_numpy(colour),
    )


def _part(sample: Decoded, part: Box) -> Box:
    """Return the part, or the whole picture if the part has no fixation."""
    along = sample.points - (part.left, part.top)
    seen = ((along >= 0) & (along < (part.width, part.height))).all(1)
    if seen.any() or not len(sample.points):
        return part
    return Box(0, 0, *sample.density.shape)
