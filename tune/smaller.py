"""Smaller pictures for trials: photographs, density maps and gaze shrunk alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from emlnet.data.framing import Size
from emlnet.data.maps import resize, to_log_density
from emlnet.data.samples import Decoded
from emlnet.models.encoder import Encoder
from pipelines.stages.decoder_stage import Readouts, read_gaze
from pipelines.stages.readout_cache import Cache
from shards.read.reader import ShardReader

AT_ONCE = 50
"""Samples whose readouts are shrunk at a time."""


def scaled(size: tuple[int, int], scale: float, multiple: int = 1) -> tuple[int, int]:
    """(H, W) at a scale, in pixels that are a multiple of a number."""
    height, width = (max(1, round(scale * side / multiple)) * multiple for side in size)
    return height, width


def shrink(sample: Decoded, scale: float) -> Decoded:
    """A sample whose pictures are smaller; fixations fall on the pixel that holds theirs."""
    if scale == 1:
        return sample
    old, new = np.array(sample.density.shape), scaled(sample.density.shape, scale)
    ratio = (np.array(new) / old)[::-1]  # (x, y)
    points = np.minimum(sample.points * ratio, np.array(new[::-1]) - 1).astype(np.int32)
    return replace(
        sample,
        image=_smaller(sample.image, new),
        points=points,
        density=_smaller(sample.density, new),
    )


def _smaller(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if picture.strides[:2] == (0, 0):  # A picture that nobody looks at is one repeated value.
        return np.broadcast_to(picture[0, 0], (*size, *picture.shape[2:]))
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BOX))


class SmallReader(ShardReader):
    """The samples of a split at a scale."""

    def __init__(self, folder: Path | str, split: str, scale: float) -> None:
        super().__init__(folder, split)
        self.scale = scale

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(H, W) of each sample in pixels, as it is shown."""
        return tuple(scaled((entry.height, entry.width), self.scale) for entry in self.entries)

    @property
    def digest(self) -> str:
        """That of the data set at this scale."""
        return super().digest if self.scale == 1 else f"{super().digest} x {self.scale:g}"

    def decoded(self, position: int) -> Decoded:
        """Reads one sample and decodes its pictures, smaller."""
        return shrink(super().decoded(position), self.scale)


class Shrunk:
    """Readouts of one encoder on one split at a scale, and its own map, all in memory.

    taps: for each (N, 2, h, w) float16, the second of the two for the mirrored picture; the last of
    them is the encoder's log-density, at the size of the smaller pictures.  Its arrays lie in Ray's
    object store once it was put there, and every process of a node reads them there.
    """

    def __init__(self, taps: list[NDArray[np.float16]]) -> None:
        self.taps = taps

    @classmethod
    def of(cls, cache: Cache, encoder: Encoder, sizes: Sequence[Size], scale: float) -> Shrunk:
        """The readouts of a cache: those finer than the finest at that scale, averaged down.

        sizes: (H, W) of the split's pictures, all the same.
        """
        num_samples, size = len(sizes), scaled(sizes[0], scale)
        parts: list[list[Tensor]] = []
        for first in range(0, num_samples, AT_ONCE):
            positions = range(first, min(first + AT_ONCE, num_samples))
            both = [cache.read(positions, [flip] * len(positions)) for flip in (False, True)]
            taps = [torch.cat(pair, 1).float() for pair in zip(*both, strict=True)]
            limit = scaled(max(_size(tap) for tap in taps), scale)
            small = [resize(tap, min(_size(tap), limit)).half() for tap in taps]
            maps = [_own_map(encoder, [tap[:, [flip]] for tap in taps], size) for flip in (0, 1)]
            parts.append([*small, torch.cat(maps, 1).half()])
        return cls([torch.cat(each).numpy() for each in zip(*parts, strict=True)])

    def read(self, positions: Sequence[int], flips: Sequence[bool]) -> list[Tensor]:
        """For each tap (B, 1, h, w) float16 of the samples at these positions, mirrored or not."""
        chosen = np.asarray(flips, np.int64)
        rows = np.asarray(positions, np.int64)
        return [torch.from_numpy(tap[rows, chosen][:, None]) for tap in self.taps]


@torch.no_grad()
def _own_map(encoder: Encoder, readouts: list[Tensor], size: Size) -> Tensor:
    """The encoder's log-density (B, 1, H, W) from its readouts."""
    return to_log_density(encoder.own_map(readouts, size), encoder.kind)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]


class Gaze:
    """Where people looked in the pictures of a split, at a scale, all in memory.

    densities: (N, H, W) uint8.  points: (P, 2) int32 of all samples, one after another; ends: (N,)
    where each sample's end.
    """

    def __init__(
        self,
        densities: NDArray[np.uint8],
        points: NDArray[np.int32],
        ends: NDArray[np.int64],
    ) -> None:
        self.densities, self.points, self.ends = densities, points, ends

    @classmethod
    def of(cls, reader: ShardReader, scale: float) -> Gaze:
        """The gaze of all samples of a reader."""
        samples = [shrink(read_gaze(reader, each), scale) for each in range(len(reader))]
        return cls(
            np.stack([sample.density for sample in samples]),
            np.concatenate([sample.points for sample in samples]),
            np.cumsum([len(sample.points) for sample in samples]),
        )

    def __call__(self, position: int) -> Decoded:
        """A sample without its photograph."""
        density = self.densities[position]
        points = self.points[self.ends[position - 1] if position else 0 : self.ends[position]]
        return Decoded(
            key=str(position),
            image=np.broadcast_to(np.uint8(0), (*density.shape, 3)),
            points=points,
            observers=np.zeros(len(points), np.int32),
            density=density,
        )


class Part:
    """Readouts at some positions of a split, counted from 0."""

    def __init__(self, readouts: Readouts, positions: list[int]) -> None:
        self.readouts, self.positions = readouts, positions

    def read(self, positions: Sequence[int], flips: Sequence[bool]) -> list[Tensor]:
        """For each tap (B, 1, h, w) of the samples at these positions, mirrored or not."""
        return self.readouts.read([self.positions[each] for each in positions], flips)
