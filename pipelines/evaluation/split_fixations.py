"""The fixations of a whole split, for shuffled AUC, and the blur of its density maps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from emlnet.data.maps import density_map
from pipelines.evaluation import sources
from pipelines.ray_cluster import tasks
from shards.read.reader import ShardReader

_FIT_WIDTH = 160


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitFixations:
    """The fixations in all images of a split.

    points: per image, (N, 2) int32 (x, y).  sizes: (I, 2) int64 (H, W).
    """

    points: list[NDArray[np.int32]]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sizes)

    def counts(self, images: Iterable[int], size: tuple[int, int]) -> NDArray[np.float32]:
        """Count the fixations of some images, scaled to a size: (H, W).

        Scaled positions are truncated to whole pixels, as in pysaliency's shuffled negatives.
        """
        total = np.zeros(size, np.float32)
        for image in images:
            scale = np.array(size)[::-1] / self.sizes[image][::-1]
            x, y = (self.points[image] * scale).astype(np.int64).T
            np.add.at(total, (y, x), 1)
        return total

    @cached_property
    def _all(self) -> dict[tuple[int, int], NDArray[np.float32]]:
        return {}

    def of_others(self, position: int) -> NDArray[np.float32]:
        """Count the fixations of all other images at this image's size: (H, W)."""
        height, width = (int(length) for length in self.sizes[position])
        size = (height, width)
        if size not in self._all:
            self._all[size] = self.counts(range(len(self)), size)
        return self._all[size] - self.counts([position], size)


def read_fixations(reader: ShardReader, num_workers: int) -> SplitFixations:
    """Read the fixations of a split, on the cluster."""
    parts = tasks.split(len(reader), 200)
    title = f"fixations, {reader.split}"
    points = tasks.map_parts(
        _read_points, parts, reader, title=title, use_gpu=False, num_workers=num_workers
    )
    by_image = [image for part in points for image in part]
    return SplitFixations(points=by_image, sizes=np.array(reader.sizes))


def _read_points(
    part: list[int], device: torch.device, reader: ShardReader
) -> list[NDArray[np.int32]]:
    return [reader.sample(position).points for position in part]


def estimate_sigma(reader: ShardReader, gaze: SplitFixations, num_images: int = 4) -> float:
    """Estimate the sigma of a split's density maps, in pixels: the median over a few images."""
    seen = [image for image, points in enumerate(gaze.points) if len(points)]
    if not seen:
        raise ValueError(f"no image of split {reader.split!r} has a fixation: nothing to score")
    found = []
    for place in np.linspace(0, len(seen) - 1, min(num_images, len(seen))).astype(int):
        position = seen[place]
        targets = sources.prepare_split_image(
            position, reader.decoded(position), torch.device("cpu")
        ).targets
        if targets.density.amin() < targets.density.amax():  # A constant map shows no blur.
            found.append(fit_sigma(targets.fixation_map(), targets.density))
    if not found:
        raise ValueError(
            f"the density maps of split {reader.split!r} are constant: they show no blur; "
            "give --sigma"
        )
    return float(np.median(found))


def fit_sigma(fixations: Tensor, density: Tensor) -> float:
    """Return the sigma, in pixels, of the Gaussian that blurred fixations to a density map.

    fixations, density: (1, 1, H, W); the density has any scale and is not constant.
    The sigma maximises the correlation of blurred fixations and density, to about 1 %.
    """
    scale = max(1, round(fixations.shape[-1] / _FIT_WIDTH))
    counts, wanted = (F.avg_pool2d(maps.float(), scale) for maps in (fixations, density))

    def loss(log_sigma: float) -> float:
        blurred = density_map(counts, float(np.exp(log_sigma)))
        return -float(np.corrcoef(blurred.flatten(), wanted.flatten())[0, 1])

    bounds = np.log(0.3), np.log(max(1.0, counts.shape[-1] / 4))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.01})
    return float(np.exp(found.x)) * scale
