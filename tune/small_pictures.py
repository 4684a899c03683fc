"""Smaller pictures for trials: photographs, density maps and fixations reduced alike."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emlnet.data.framing import Size
from emlnet.data.samples import Decoded
from shards.read.reader import ShardReader


class SmallReader(ShardReader):
    """The samples of a split at a scale."""

    def __init__(self, folder: Path | str, split: str, scale: float) -> None:
        super().__init__(folder, split)
        self.scale = scale

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """(H, W) of each sample in pixels, reduced."""
        return tuple(scaled((entry.height, entry.width), self.scale) for entry in self.entries)

    def decoded(self, position: int) -> Decoded:
        """Read one sample and decode its pictures, reduced."""
        return shrink(super().decoded(position), self.scale)


def shrink(sample: Decoded, scale: float) -> Decoded:
    """Return a sample at a scale; each fixation moves to the pixel that covers it."""
    if scale == 1:
        return sample
    old, new = np.array(sample.density.shape), scaled(sample.density.shape, scale)
    ratio = (np.array(new) / old)[::-1]  # (x, y)
    points = np.minimum(sample.points * ratio, np.array(new[::-1]) - 1).astype(np.int32)
    return replace(
        sample,
        image=_reduce(sample.image, new),
        points=points,
        density=_reduce(sample.density, new),
    )


def _reduce(picture: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    if picture.strides[:2] == (0, 0):  # The placeholder of a photograph that is not decoded.
        return np.broadcast_to(picture[0, 0], (*size, *picture.shape[2:]))
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BOX))


def scaled(size: tuple[int, ...], scale: float, multiple: int = 1) -> Size:
    """Return (H, W) at a scale, each rounded to a multiple of `multiple` pixels."""
    height, width = (max(1, round(scale * side / multiple)) * multiple for side in size)
    return height, width
