"""The words every other room speaks: a photograph with its gaze, and a batch of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emlnet.augment import change_colour
from emlnet.views import Frame, Size, View, cut, frames, letterbox, show, show_pixels


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Where people looked, on the device of the model, in the shape that losses and metrics use.

    density: (B, 1, H, W) float32, >= 0, sums to 1 per image.
    index: (P,) int64, fixated pixels as positions in the flattened (B, H, W).
    counts: (P,) float32, fixations on that pixel.  weight: (B,) float32, 1 or 0 (padding).
    frames: the part of each map that its picture fills, None when it is the whole.
    """

    density: Tensor
    index: Tensor
    counts: Tensor
    weight: Tensor
    frames: tuple[Frame, ...] | None = None

    @property
    def owner(self) -> Tensor:
        """(P,) int64: the image in the batch that each fixated pixel belongs to."""
        return self.index // (self.density.shape[-2] * self.density.shape[-1])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.density.shape[-2], self.density.shape[-1]

    @property
    def mask(self) -> Tensor:
        """(B, 1, H, W) bool: false where a letterbox pads a picture."""
        mask = torch.ones_like(self.density, dtype=torch.bool)
        for row, frame in zip(mask, self.frames or (), strict=False):
            row.fill_(False)
            cut(row, frame).fill_(True)
        return mask

    def fixation_map(self) -> Tensor:
        """(B, 1, H, W) float32: the number of fixations on each pixel."""
        flat = torch.zeros_like(self.density).view(-1)
        return flat.index_put_((self.index,), self.counts).view_as(self.density)


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
    parts: Sequence[Frame] | None = None,
    colour: NDArray[np.float32] | None = None,
    pictures: Tensor | None = None,
) -> Batch:
    """Joins decoded samples into a batch.

    weight: (B,) 1 or 0.  flip: (B,) bool.  canvas: (H, W) on which pictures of any size are shown;
    without it all have one size.  stretch: fill the canvas, whatever a picture's proportions.
    parts: of each picture what is shown; one that would show no fixation is shown whole.
    colour: (B, 3) factors.  pictures: (N,) uint8 memory for photographs and densities, 4 bytes a
    pixel; new when there is none.  Raises ValueError when the sizes differ and no canvas is given.
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
        wholes = [Frame(0, 0, *size) for size in sizes]
        views = tuple(
            View(
                size,
                _part(sample, part),
                Frame(0, 0, *canvas) if stretch else letterbox(size, canvas),
            )
            for sample, size, part in zip(samples, sizes, parts or wholes, strict=True)
        )
    if pictures is None:
        pictures = torch.empty(sum(4 * s.density.size for s in samples), dtype=torch.uint8)
    shape = (len(samples), 3, *sizes[0]) if not mixed else (3 * len(pictures) // 4,)
    image, density = split_pictures(pictures, shape)
    _fill(pictures[: image.numel()], [s.image for s in samples])
    _fill(pictures[image.numel() :], [s.density for s in samples])
    return Batch(
        keys=tuple(s.key for s in samples),
        image=image,
        density=density,
        pixels=torch.from_numpy(np.concatenate(pixels)),
        counts=torch.from_numpy(np.concatenate(counts)),
        weight=torch.from_numpy(np.asarray(weight, np.float32)),
        flip=torch.from_numpy(np.asarray(flip, np.bool_)),
        canvas=None if views is None else canvas,
        views=views,
        colour=None if colour is None else torch.from_numpy(colour),
    )


def split_pictures(pictures: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A batch's photographs and densities in their memory, (N,) uint8: views of it.

    shape: of the photographs, (B, 3, H, W), or (M,) where sizes differ; the rest is densities.
    """
    num = math.prod(shape)
    if len(shape) == 1:
        return pictures[:num], pictures[num:]
    batch, channels, height, width = shape
    image = pictures[:num].view(batch, height, width, channels).permute(0, 3, 1, 2)
    return image, pictures[num:].view(batch, 1, height, width)


def photographs(pictures: Tensor, sizes: Sequence[Size]) -> list[NDArray[np.uint8]]:
    """The places (H, W, 3) of a batch's photographs, of these sizes, in the memory of `collate`."""
    ends = np.cumsum([3 * height * width for height, width in sizes])
    memory = pictures.numpy()
    return [
        memory[end - 3 * height * width : end].reshape(height, width, 3)
        for end, (height, width) in zip(ends, sizes, strict=True)
    ]


def _fill(memory: Tensor, pictures: Sequence[NDArray[np.uint8]]) -> None:
    """Copies pictures one after another, but those that are there already."""
    place, start = memory.numpy(), 0
    for picture in pictures:
        target = place[start : start + picture.size].reshape(picture.shape)
        if target.ctypes.data != picture.ctypes.data:
            np.copyto(target, picture)
        start += picture.size


def _part(sample: Decoded, part: Frame) -> Frame:
    """What is shown of a sample: the part, or all of it where the part holds no fixation."""
    along = sample.points - (part.left, part.top)
    seen = ((along >= 0) & (along < (part.width, part.height))).all(1)
    if seen.any() or not len(sample.points):
        return part
    return Frame(0, 0, *sample.image.shape[:2])


def _pictures(joined: Tensor, views: Sequence[View], channels: int) -> list[Tensor]:
    """A batch's pictures one by one, (C, H, W) of each its size."""
    if joined.ndim > 1:
        return list(joined)
    lengths = [channels * view.size[0] * view.size[1] for view in views]
    return [
        flat.view(*view.size, channels).permute(2, 0, 1)
        for flat, view in zip(torch.split(joined, lengths), views, strict=True)
    ]


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


def _mirrored(pictures: Tensor, flip: Tensor) -> Tensor:
    """(B, C, H, W) as float32, those that `flip` (B,) on the CPU names mirrored left to right."""
    shown = torch.empty_like(pictures, dtype=torch.float32)
    for row, mirrored in enumerate(flip.tolist()):
        picture = pictures[row : row + 1]
        shown[row : row + 1].copy_(picture.flip(-1) if mirrored else picture)
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


def prepare_image(batch: Batch, device: torch.device | str = "cpu") -> Tensor:
    """(B, 3, H, W) float32 in 0..1 on the device, as shown, mirrored and coloured."""
    image = batch.image.to(device, non_blocking=True)
    if batch.views is None or batch.canvas is None:
        image = _mirrored(image, batch.flip).div_(255)
    else:
        pictures = _pictures(image, batch.views, 3)
        image = show(pictures, batch.views, batch.canvas, batch.flip).div_(255)
    if batch.colour is not None:
        image = change_colour(image, batch.colour.to(device, non_blocking=True))
    return image
