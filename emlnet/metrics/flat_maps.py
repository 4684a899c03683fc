"""Maps and fixations as metrics take them: flat, checked, summed in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

NUMPY_THREADS = 2
"""Threads of torch that take a logarithm no sooner than numpy's one does with AVX-512."""


@dataclass(frozen=True, eq=False)
class FlatMaps:
    """Maps (B, N), one image a row.

    raw: (B, N) float32 or float64, as they came.  low, high: (B, 1) their extremes.
    negative: whether any map has negative values.  blank: whether any is constant, 0 or below.
    store, centre_store: (B, N) float64 that `values` and `centred` may overwrite.
    """

    raw: Tensor
    low: Tensor
    high: Tensor
    negative: bool
    blank: bool
    store: Tensor | None = None
    centre_store: Tensor | None = None

    @cached_property
    def values(self) -> Tensor:
        """(B, N) float64."""
        if self.store is None or self.raw.dtype == torch.float64:
            return self.raw.double()
        return self.store.copy_(self.raw)

    @cached_property
    def positive(self) -> Tensor:
        """(B, N) without negative values ; a map that has some is lifted by its lowest.

        A constant map at or below 0 becomes ones.
        """
        values = self.values
        if self.negative:
            values = values - self.low.clamp(max=0).double()
        if self.blank:
            values = values + ((self.low == self.high) & (self.low <= 0)).double()
        return values

    @cached_property
    def total(self) -> Tensor:
        """(B,) sum of `positive`."""
        return self.positive.sum(1)

    def density(self, out: Tensor | None = None) -> Tensor:
        """(B, N) divided by its sum; uniform where constant.  out: (B, N) float64, overwritten."""
        return torch.div(self.positive, self.total[:, None], out=out)

    def scaled(self, out: Tensor | None = None) -> Tensor:
        """(B, N) in 0..1; a constant map becomes zeros.  out: (B, N) float64, overwritten."""
        low, high = self.low.double(), self.high.double()
        lifted = torch.sub(self.values, low, out=out)
        return lifted.div_(torch.where(high > low, high - low, 1))

    def scaled_density(self, out: Tensor | None = None) -> Tensor:
        """(B, N) scaled to 0..1, then divided by its sum; a constant map is uniform.

        out: (B, N) float64, overwritten.
        """
        values = self.scaled(out).add_((self.low == self.high).double())
        return values.div_(values.sum(1, keepdim=True))

    @cached_property
    def constant(self) -> Tensor:
        """(B,) bool."""
        return (self.low == self.high)[:, 0]

    @cached_property
    def centred(self) -> Tensor:
        """(B, N) less its mean; it overwrites `centre_store`."""
        mean = self.values.mean(1, keepdim=True)
        return torch.sub(self.values, mean, out=self.centre_store)

    @cached_property
    def sum_of_squares(self) -> Tensor:
        """(B,) of the centred values."""
        return dot(self.centred, self.centred)


@dataclass(frozen=True, eq=False)
class Gaze:
    """Pixels that were looked at, in the order of images, and how often.

    image: (P,) int64 position in the batch.  pixel: (P,) int64 position in the flat image.
    counts: (P,) float64, above zero.  batch: the number of images, B.
    most: at least the largest number of rows that one image has, and 1.
    """

    image: Tensor
    pixel: Tensor
    counts: Tensor
    batch: int
    most: int

    @cached_property
    def num_pixels(self) -> Tensor:
        """(B,) float64: fixated pixels of each image."""
        return self.total(torch.ones_like(self.counts))

    @cached_property
    def num_fixations(self) -> Tensor:
        """(B,) float64: fixations of each image."""
        return self.total(self.counts)

    def total(self, values: Tensor) -> Tensor:
        """(P,) float64 values summed per image, (B,)."""
        return values.new_zeros(self.batch).index_add_(0, self.image, values)

    def pad(self, values: Tensor, fill: float | int) -> Tensor:
        """(P,) values as one row per image, (B, most), filled up at the end."""
        sizes = self.num_pixels.long()
        first = sizes.cumsum(0) - sizes
        column = torch.arange(len(values), device=values.device) - first[self.image]
        padded = values.new_full((self.batch, self.most), fill)
        return padded.index_put_((self.image, column), values)


def positions(values: Tensor, below: bool = False) -> Tensor:
    """(P,) int64: where flat values are above 0, or below it."""
    if values.device.type == "cpu":  # Several times faster than torch's.
        array = values.numpy()
        return torch.from_numpy(np.flatnonzero(array < 0 if below else array > 0))
    return (values < 0 if below else values > 0).nonzero()[:, 0]


def log(values: Tensor) -> Tensor:
    """Natural logarithm of float32 or float64 values, which it overwrites."""
    # Without AVX-512 numpy's is half as fast as torch's.
    if (
        values.device.type == "cpu"
        and torch.get_num_threads() <= NUMPY_THREADS
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    ):
        np.log(values.numpy(), out=values.numpy())
        return values
    return values.log_()


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Sum of products per row of (B, N), (B,)."""
    if len(first) == 1:  # No product to store.
        return torch.dot(first[0], second[0])[None]
    return (first * second).sum(1)


def check_shapes(maps: dict[str, Tensor]) -> None:
    """Raises ValueError unless all maps, by name, are (B, 1, H, W) of one size."""
    first = next(iter(maps))
    for name, given in maps.items():
        if given.ndim != 4 or given.shape[1] != 1:
            raise ValueError(f"{name} must be (B, 1, H, W), found {tuple(given.shape)}")
        if given.shape != maps[first].shape:
            raise ValueError(
                f"{name} is {tuple(given.shape)}, {first} {tuple(maps[first].shape)}: "
                "they must be of one size"
            )


def read(
    maps: dict[str, Tensor],
    counts: dict[str, Tensor],
    fixated: Sequence[str],
    start: int = 0,
) -> tuple[dict[str, FlatMaps], dict[str, Gaze]]:
    """Checks maps and count maps by name, all of one shape.

    fixated: the count maps whose pixels are wanted as `Gaze`.  start: the first image's position.
    Raises ValueError for a map that isn't finite, but for the map `log_density`, which may be minus
    infinity where a model is sure that nobody looks, and for counts below zero.
    Waits for the device twice, once more for each name in `fixated` after the first.
    """
    flat, extremes = {}, []
    for name, given in (maps | counts).items():
        rows = given.flatten(1)
        rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
        flat[name] = rows, rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        extremes += [flat[name][1].double(), flat[name][2].double()]
    gaze = {}
    for name in fixated:
        rows = flat[name][0]
        found = positions(rows.reshape(-1))
        image, pixel = found // rows.shape[1], found % rows.shape[1]
        gaze[name] = Gaze(image, pixel, rows[image, pixel].double(), len(rows), 1)
        extremes.append(gaze[name].num_pixels[:, None])
    columns = torch.cat(extremes, 1).T.tolist()
    checked = {}
    for index, (name, tensors) in enumerate(flat.items()):
        lows, highs = columns[2 * index : 2 * index + 2]
        for position, (low, high) in enumerate(zip(lows, highs, strict=True)):
            finite = math.isfinite(high) and (
                math.isfinite(low) or (name == "log_density" and low < 0)
            )
            if not finite or (name in counts and low < 0):
                wanted = "counts of at least 0" if name in counts else "finite"
                raise ValueError(
                    f"{name} of image {start + position} must be {wanted}, "
                    f"found values from {low} to {high}"
                )
        checked[name] = FlatMaps(
            *tensors,
            negative=min(lows, default=0) < 0,
            blank=any(low == high <= 0 for low, high in zip(lows, highs, strict=True)),
        )
    for name, sizes in zip(fixated, columns[2 * len(flat) :], strict=True):
        gaze[name] = replace(gaze[name], most=max([1, *map(int, sizes)]))
    return checked, gaze
