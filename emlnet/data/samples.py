"""The words every other room speaks: a photograph with its gaze, and a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emlnet.data.framing import Box, Size, View, letterbox


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One photograph and where people looked, as it is stored: pictures stay encoded.

    key: `split/stem`, unique in a data set.  image: the photograph's file, byte for byte.
    points: (N, 2) int32 fixations (x, y), zero-based pixels of the upright photograph; repeats kept
    observers: (N,) int32, whose fixation each is, -1 where the source does not tell.
    density: the density map's file, 8-bit grey PNG.
    timing: (N, 2) float32 onset and duration in ms, nan where one is unknown; None without any.
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
    """Samples, collated, uint8 until they are on the device.

    image: (B, 3, H, W) uint8 RGB.  density: (B, 1, H, W) uint8, any scale.  Both are flat, one
    picture (H, W, C) after another, where sizes differ.
    pixels: (P, 3) int64, one row per fixated pixel: image in the batch, y, x.
    counts: (P,) float32, fixations on that pixel.
    weight: (B,) float32, 1, or 0 for a sample that only fills up the last step of an epoch.
    flip: (B,) bool, whether to mirror the sample left to right.
    canvas, views: what is shown of each picture, and where; None when each is shown whole.
    colour: (B, 3) float32 factors of brightness, contrast and saturation; None leaves colours.
    """

    keys: tuple[str, ...]
    image: Tensor
    density: Tensor
    pixels: Tensor
    counts: Tensor
    weight: Tensor
    flip: Tensor
    canvas: Size | None = None
    views: tuple[View, ...] | None = None
    colour: Tensor | None = None

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory."""
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self).items() if torch.is_tensor(value)
        }
        return replace(self, **pinned)


def decoded_pixels(
    points: NDArray[np.int32], width: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Fixations (N, 2) as unique pixels (P, 2), (y, x), and how many fixations each has, (P,)."""
    flat = points[:, 1].astype(np.int64) * width + points[:, 0]
    unique, counts = np.unique(flat, return_counts=True)
    return np.stack([unique // width, unique % width], axis=1), counts.astype(np.float32)


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
    """Joins decoded samples into a batch.

    weight: (B,) 1 or 0.  flip: (B,) bool.  canvas: (H, W) on which pictures of any size are shown;
    without it all have one size.  stretch: fill the canvas, whatever a picture's proportions.
    parts: of each picture what is shown; one that would show no fixation is shown whole.
    colour: (B, 3) factors.
    Raises ValueError when the sizes differ and no canvas is given.
    """
    sizes = [sample.image.shape[:2] for sample in samples]
    mixed = len(set(sizes)) != 1
    if mixed and canvas is None:
        names = ", ".join(f"{s.key} {s.image.shape[:2]}" for s in samples)
        raise ValueError(f"images of different sizes cannot share a batch: {names}")
    pixels, counts = [], []
    for position, sample in enumerate(samples):
        unique, count = decoded_pixels(sample.points, sample.image.shape[1])
        pixels.append(np.insert(unique, 0, position, axis=1))
        counts.append(count)
    canvas = canvas or sizes[0]
    views = None
    if parts is not None or mixed or canvas != sizes[0]:
        wholes = [Box(0, 0, *size) for size in sizes]
        views = tuple(
            View(
                size,
                _part(sample, part),
                Box(0, 0, *canvas) if stretch else letterbox(size, canvas),
            )
            for sample, size, part in zip(samples, sizes, parts or wholes, strict=True)
        )
    return Batch(
        keys=tuple(s.key for s in samples),
        image=_join([s.image for s in samples], mixed),
        density=_join([s.density[..., None] for s in samples], mixed),
        pixels=torch.from_numpy(np.concatenate(pixels)),
        counts=torch.from_numpy(np.concatenate(counts)),
        weight=torch.from_numpy(np.asarray(weight, np.float32)),
        flip=torch.from_numpy(np.asarray(flip, np.bool_)),
        canvas=None if views is None else canvas,
        views=views,
        colour=None if colour is None else torch.from_numpy(colour),
    )


def _join(pictures: Sequence[NDArray[np.uint8]], mixed: bool) -> Tensor:
    """Pictures (H, W, C) as (B, C, H, W); flat, one after another, when their sizes are mixed."""
    if mixed:
        return torch.from_numpy(np.concatenate([picture.reshape(-1) for picture in pictures]))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _part(sample: Decoded, part: Box) -> Box:
    """What is shown of a sample: the part, or all of it where the part holds no fixation."""
    along = sample.points - (part.left, part.top)
    seen = ((along >= 0) & (along < (part.width, part.height))).all(1)
    if seen.any() or not len(sample.points):
        return part
    return Box(0, 0, *sample.image.shape[:2])
