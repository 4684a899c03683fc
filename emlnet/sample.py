"""The words every other room speaks: a photograph with its gaze, and a batch of them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One photograph and where people looked, as it is stored: pictures stay encoded.

    key: `split/stem`, unique in a data set.  image: the photograph's file, byte for byte.
    points: (N, 2) int32 fixations (x, y), zero-based pixels of the upright photograph; repeats kept
    observers: (N,) int32, whose fixation each is.  density: the density map's file, 8-bit grey PNG.
    """

    key: str
    image: bytes
    points: NDArray[np.int32]
    observers: NDArray[np.int32]
    density: bytes


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
    """Samples of one size, collated, uint8 until they are on the device.

    image: (B, 3, H, W) uint8 RGB.  density: (B, 1, H, W) uint8, any scale.
    pixels: (P, 3) int64, one row per fixated pixel: image in the batch, y, x.
    counts: (P,) float32, fixations on that pixel.
    weight: (B,) float32, 1, or 0 for a sample that only fills up the last step of an epoch.
    flip: (B,) bool, whether to mirror the sample left to right.
    """

    keys: tuple[str, ...]
    image: Tensor
    density: Tensor
    pixels: Tensor
    counts: Tensor
    weight: Tensor
    flip: Tensor

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; a data loader calls it."""
        pinned = {
            item.name: getattr(self, item.name).pin_memory()
            for item in fields(self)
            if item.name != "keys"
        }
        return replace(self, **pinned)


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Where people looked, on the device of the model, in the shape that losses and metrics use.

    density: (B, 1, H, W) float32, >= 0, sums to 1 per image.
    index: (P,) int64, fixated pixels as positions in the flattened (B, H, W).
    counts: (P,) float32, fixations on that pixel.  weight: (B,) float32, 1 or 0 (padding).
    """

    density: Tensor
    index: Tensor
    counts: Tensor
    weight: Tensor

    @property
    def owner(self) -> Tensor:
        """(P,) int64: the image in the batch that each fixated pixel belongs to."""
        return self.index // (self.density.shape[-2] * self.density.shape[-1])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.density.shape[-2], self.density.shape[-1]

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


def collate(samples: list[Decoded], weight: NDArray[np.float32], flip: NDArray[np.bool_]) -> Batch:
    """Joins decoded samples of one size into a batch.

    weight: (B,) 1 or 0.  flip: (B,) bool.  Raises ValueError when the sizes differ.
    """
    sizes = {sample.image.shape[:2] for sample in samples}
    if len(sizes) != 1:
        names = ", ".join(f"{s.key} {s.image.shape[:2]}" for s in samples)
        raise ValueError(f"images of different sizes cannot share a batch: {names}")
    pixels, counts = [], []
    for position, sample in enumerate(samples):
        unique, count = decoded_pixels(sample.points, sample.image.shape[1])
        pixels.append(np.insert(unique, 0, position, axis=1))
        counts.append(count)
    images = np.stack([s.image for s in samples])
    return Batch(
        keys=tuple(s.key for s in samples),
        image=torch.from_numpy(images).permute(0, 3, 1, 2),
        density=torch.from_numpy(np.stack([s.density for s in samples])[:, None]),
        pixels=torch.from_numpy(np.concatenate(pixels)),
        counts=torch.from_numpy(np.concatenate(counts)),
        weight=torch.from_numpy(np.asarray(weight, np.float32)),
        flip=torch.from_numpy(np.asarray(flip, np.bool_)),
    )


def prepare_targets(batch: Batch, device: torch.device | str = "cpu") -> Targets:
    """A batch's gaze on the device, mirrored where asked, each density scaled to a sum of 1.

    A density of zeros becomes uniform.
    """
    flip = batch.flip.to(device, non_blocking=True)
    density = batch.density.to(device, non_blocking=True).float()
    density = torch.where(flip[:, None, None, None], density.flip(-1), density)
    total = density.sum(dim=(-2, -1), keepdim=True)
    height, width = density.shape[-2:]
    density = torch.where(total > 0, density / total.clamp_min(1e-12), 1 / (height * width))
    image, y, x = batch.pixels.to(device, non_blocking=True).unbind(1)
    x = torch.where(flip[image], width - 1 - x, x)
    return Targets(
        density=density,
        index=(image * height + y) * width + x,
        counts=batch.counts.to(device, non_blocking=True),
        weight=batch.weight.to(device, non_blocking=True),
    )


def prepare_image(batch: Batch, device: torch.device | str = "cpu") -> Tensor:
    """(B, 3, H, W) float32 in 0..1 on the device, mirrored where asked."""
    flip = batch.flip.to(device, non_blocking=True)
    image = batch.image.to(device, non_blocking=True)
    image = torch.where(flip[:, None, None, None], image.flip(-1), image)
    return image.float().div_(255)
