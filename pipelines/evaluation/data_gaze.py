"""Where people looked in all images of a split: what one image's scores need of the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from emlnet.metrics import baselines
from pipelines.evaluation import sources
from pipelines.ray_cluster import tasks
from shards.read.reader import ShardReader


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaze:
    """Where people looked in all images of a split.

    points: (N, 2) int32 (x, y), image after image.  starts: (I + 1,) int64, where each image's
    begin.  sizes: (I, 2) int64 (H, W).
    """

    points: NDArray[np.int32]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sizes)

    def counts(self, images: Iterable[int], size: tuple[int, int]) -> NDArray[np.float32]:
        """(H, W) counts of some images' fixations, scaled to a size.

        Scaled positions are cut to whole pixels, as those of pysaliency's shuffled negatives are.
        """
        height, width = size
        total = np.zeros(height * width, np.int64)
        for image in images:
            points = self.points[self.starts[image] : self.starts[image + 1]]
            own_height, own_width = self.sizes[image]
            x = (points[:, 0] * (width / own_width)).astype(np.int64)
            y = (points[:, 1] * (height / own_height)).astype(np.int64)
            np.add.at(total, y * width + x, 1)
        return total.reshape(size).astype(np.float32)

    @cached_property
    def _all(self) -> dict[tuple[int, int], NDArray[np.float32]]:
        return {}

    def of_others(self, position: int) -> NDArray[np.float32]:
        """(H, W) counts, at this image's size, of the fixations of all other images."""
        height, width = (int(length) for length in self.sizes[position])
        size = (height, width)
        if size not in self._all:
            self._all[size] = self.counts(range(len(self)), size)
        return self._all[size] - self.counts([position], size)


def read_gaze(reader: ShardReader, num_workers: int) -> Gaze:
    """The gaze of the whole split, read on the cluster."""
    parts = tasks.split(len(reader), 200)
    title = f"fixations, {reader.split}"
    points = tasks.spread(
        _read_points, parts, reader, title=title, use_gpu=False, num_workers=num_workers
    )
    each = [image for part in points for image in part]
    starts = np.cumsum([0, *map(len, each)])
    return Gaze(points=np.concatenate(each), starts=starts, sizes=np.array(reader.sizes))


def _read_points(
    part: list[int], device: torch.device, reader: ShardReader
) -> list[NDArray[np.int32]]:
    return [reader.sample(position).points for position in part]


def estimate_sigma(reader: ShardReader, gaze: Gaze, num_images: int = 4) -> float:
    """Of the blur in the split's density maps, in pixels, from a few images evenly chosen."""
    seen = np.flatnonzero(np.diff(gaze.starts))
    if not len(seen):
        raise ValueError(f"no image of split {reader.split!r} has a fixation: nothing to score")
    found = []
    for place in np.linspace(0, len(seen) - 1, min(num_images, len(seen))).astype(int):
        position = int(seen[place])
        targets = sources.show(position, reader.decoded(position), torch.device("cpu")).targets
        if targets.density.amin() < targets.density.amax():  # A constant map shows no blur.
            found.append(baselines.estimate_sigma(targets.fixation_map(), targets.density))
    if not found:
        raise ValueError(
            f"the density maps of split {reader.split!r} are constant: they show no blur; "
            "give --sigma"
        )
    return float(np.median(found))
