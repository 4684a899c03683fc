"""Maps and fixations as the metrics take them: checked, flattened to (B, N), summed in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

PIXELS_AT_ONCE = 1 << 19
"""Pixels of a batch that are processed at a time on a CPU, so that they stay in its cache."""


@dataclass(frozen=True, eq=False)
class FlatMaps:
    """Maps (B, N), one image a row; what several metrics need is computed once.

    raw: (B, N) float32 or float64, the given values.  low, high: (B, 1) extremes of each map.
    """

    raw: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, maps: Tensor) -> FlatMaps:
        """Flatten maps (B, ...)."""
        raw = maps.flatten(1)
        raw = raw if raw.dtype in (torch.float32, torch.float64) else raw.float()
        return cls(raw, raw.amin(1, keepdim=True), raw.amax(1, keepdim=True))

    @cached_property
    def values(self) -> Tensor:
        """(B, N) float64."""
        return self.raw.double()

    @cached_property
    def constant(self) -> Tensor:
        """(B,) bool: whether all pixels of a map are equal."""
        return (self.low == self.high)[:, 0]

    @cached_property
    def centred(self) -> Tensor:
        """(B, N) values minus their mean."""
        return self.values - self.values.mean(1, keepdim=True)

    @cached_property
    def sum_of_squares(self) -> Tensor:
        """(B,) of the centred values."""
        return dot(self.centred, self.centred)

    @cached_property
    def positive(self) -> Tensor:
        """(B, N) without negative values: a map that has some is raised by its lowest.

        A constant map at or below 0 becomes ones.
        """
        blank = self.constant[:, None] & (self.low <= 0)
        raised_by = -self.low.clamp(max=0).double() + blank
        return self.values + raised_by if raised_by.any() else self.values

    @cached_property
    def total(self) -> Tensor:
        """(B,) sum of `positive`."""
        return self.positive.sum(1)

    def density(self) -> Tensor:
        """(B, N) divided by its sum; uniform where constant."""
        return self.positive / self.total[:, None]

    def scaled(self) -> Tensor:
        """(B, N) in 0..1; a constant map becomes zeros."""
        low, high = self.low.double(), self.high.double()
        return (self.values - low).div_(torch.where(high > low, high - low, 1))

    def scaled_density(self) -> Tensor:
        """(B, N) scaled to 0..1, then divided by its sum; uniform where constant."""
        values = self.scaled().add_(self.constant[:, None])
        return values.div_(values.sum(1, keepdim=True))

    def check_finite(self, name: str, first: int, minus_infinity: bool = False) -> None:
        """Raise ValueError for a map that is not finite, with its position in the batch.

        first: position of the first map.  minus_infinity: whether a map may hold it.
        """
        for position, (low, high) in enumerate(self._extremes(), first):
            low_is_right = math.isfinite(low) or (minus_infinity and low == -math.inf)
            if not (low_is_right and math.isfinite(high)):
                raise ValueError(
                    f"{name} of image {position} must be finite, found values from {low} to {high}"
                )

    def check_counts(self, name: str, first: int) -> None:
        """Raise ValueError for a count map that is not finite or has negative counts."""
        self.check_finite(name, first)
        for position, (low, _) in enumerate(self._extremes(), first):
            if low < 0:
                raise ValueError(f"{name} of image {position} must be counts, found {low}")

    def _extremes(self) -> list[list[float]]:
        extremes: list[list[float]] = torch.cat([self.low, self.high], 1).tolist()
        return extremes


@dataclass(frozen=True, eq=False)
class FixatedPixels:
    """The pixels of a batch that have fixations, in the order of the images.

    image: (P,) int64 position in the batch.  pixel: (P,) int64 position in the flat image.
    counts: (P,) float64 fixations, above 0.  num_images: B.
    """

    image: Tensor
    pixel: Tensor
    counts: Tensor
    num_images: int

    @classmethod
    def of(cls, counts: FlatMaps) -> FixatedPixels:
        """Find the fixated pixels of count maps."""
        raw = counts.raw
        if raw.device.type == "cpu":  # Several times faster than torch's.
            found = torch.from_numpy(np.flatnonzero(raw.numpy() > 0))
        else:
            found = raw.flatten().nonzero()[:, 0]
        num_images, num_pixels = raw.shape
        image, pixel = found // num_pixels, found % num_pixels
        return cls(image, pixel, raw[image, pixel].double(), num_images)

    @cached_property
    def num_pixels(self) -> Tensor:
        """(B,) float64 fixated pixels of each image."""
        return self.total(torch.ones_like(self.counts))

    @cached_property
    def num_fixations(self) -> Tensor:
        """(B,) float64 fixations of each image."""
        return self.total(self.counts)

    def of_maps(self, maps: Tensor) -> Tensor:
        """(P,) values of maps (B, N) at these pixels."""
        return maps[self.image, self.pixel]

    def total(self, values: Tensor) -> Tensor:
        """(B,) sums per image of values (P,)."""
        return values.new_zeros(self.num_images).index_add_(0, self.image, values)

    def rows(self, values: Tensor, fill: float) -> Tensor:
        """Arrange values (P,) as one row per image, (B, most pixels of an image), padded."""
        return pad_rows(values, self.num_pixels, fill)

    def repeated(self, values: Tensor) -> Tensor:
        """Arrange values (P,) as rows with one value per fixation, padded with infinity."""
        return pad_rows(values.repeat_interleave(self.counts.long()), self.num_fixations, math.inf)


def pad_rows(values: Tensor, lengths: Tensor, fill: float) -> Tensor:
    """Split values (P,) into rows of the given lengths (B,), padded to (B, longest)."""
    if not len(lengths):
        return values.new_zeros(0, 0)
    rows = list(torch.split(values, [int(length) for length in lengths.tolist()]))
    return pad_sequence(rows, batch_first=True, padding_value=fill)


def sort_rows(values: Tensor) -> Tensor:
    """Sort each row of values (B, N), ascending."""
    if values.device.type == "cpu":  # NumPy's vectorised sort is 20 times as fast there.
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def dot(first: Tensor, second: Tensor) -> Tensor:
    """(B,) sums of the products of two (B, N)."""
    if len(first) == 1:  # No product to store.
        return torch.dot(first[0], second[0])[None]
    return (first * second).sum(1)


def check_shapes(maps: dict[str, Tensor]) -> None:
    """Raise ValueError unless all maps, by name, are (B, 1, H, W) of one size."""
    first = next(iter(maps))
    for name, given in maps.items():
        if given.ndim != 4 or given.shape[1] != 1:
            raise ValueError(f"{name} must be (B, 1, H, W), found {tuple(given.shape)}")
        if given.shape != maps[first].shape:
            raise ValueError(
                f"{name} is {tuple(given.shape)}, {first} {tuple(maps[first].shape)}: "
                "they must have one size"
            )
