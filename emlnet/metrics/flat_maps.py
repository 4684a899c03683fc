"""Inputs of the metrics: flattened maps (B, N) and fixated pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

PIXELS_AT_ONCE = 1 << 19
"""Pixels of a batch to process at once on a CPU, so that they fit its cache."""


@dataclass(frozen=True, eq=False)
class FlattenedMaps:
    """Maps (B, N), one image per row; values that several metrics need are computed once.

    raw: (B, N) float32 or float64, the given values.  low, high: (B, 1), minimum and maximum.
    """

    raw: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, maps: Tensor) -> FlattenedMaps:
        """Flatten maps (B, ...)."""
        raw = maps.flatten(1)
        raw = raw if raw.dtype in (torch.float32, torch.float64) else raw.float()
        return cls(raw, raw.amin(1, keepdim=True), raw.amax(1, keepdim=True))

    @cached_property
    def constant(self) -> Tensor:
        """(B,) bool: whether all pixels of a map are equal."""
        return (self.low == self.high)[:, 0]

    @cached_property
    def scaled(self) -> Tensor:
        """(B, N) in 0..1; a constant map becomes zeros."""
        size = torch.where(self.high > self.low, self.high - self.low, 1)
        return (self.raw - self.low).div_(size)

    @cached_property
    def centred(self) -> Tensor:
        """(B, N) scaled values minus their mean; NSS and CC do not depend on the scale."""
        return self.scaled - self.scaled.mean(1, keepdim=True)

    @cached_property
    def sum_of_squares(self) -> Tensor:
        """(B,) sum of squares of the centred values."""
        return dot(self.centred, self.centred)

    @cached_property
    def positive(self) -> Tensor:
        """(B, N) >= 0; a map with negative values is shifted to a minimum of 0.

        A constant map at or below 0 becomes ones.
        """
        blank = self.constant[:, None] & (self.low <= 0)
        raised_by = -self.low.clamp(max=0) + blank
        return self.raw + raised_by if raised_by.any() else self.raw

    @cached_property
    def total(self) -> Tensor:
        """(B,) sum of `positive`."""
        return self.positive.sum(1)

    def density(self) -> Tensor:
        """(B, N) divided by its sum; uniform where constant."""
        return self.positive / self.total[:, None]

    def scaled_density(self) -> Tensor:
        """(B, N) scaled to 0..1, then divided by its sum; uniform where constant."""
        values = self.scaled + self.constant[:, None]
        return values.div_(values.sum(1, keepdim=True))


@dataclass(frozen=True, eq=False)
class FixatedPixels:
    """The fixated pixels of a batch, ordered by image.

    image: (P,) int64 position in the batch.  pixel: (P,) int64 position in the flat image.
    counts: (P,) float64 fixations, not 0.  num_images: B.
    """

    image: Tensor
    pixel: Tensor
    counts: Tensor
    num_images: int

    @classmethod
    def of(cls, maps: Tensor) -> FixatedPixels:
        """Find the fixated pixels of count maps (B, ...)."""
        flat = maps.flatten()
        if flat.device.type == "cpu":  # Several times faster than torch's.
            found = torch.from_numpy(np.flatnonzero(flat.numpy() != 0))
        else:
            found = flat.nonzero()[:, 0]
        num_pixels = max(1, maps[:1].numel())
        return cls(found // num_pixels, found % num_pixels, flat[found].double(), len(maps))

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
        return maps.flatten()[self.image * maps.shape[1] + self.pixel]

    def total(self, values: Tensor) -> Tensor:
        """(B,) float64 sums per image of values (P,)."""
        sums = self.counts.new_zeros(self.num_images)
        return sums.index_add_(0, self.image, values.double())

    def rows(self, values: Tensor, fill: float) -> Tensor:
        """Arrange values (P,) in one padded row per image, (B, largest number of pixels)."""
        return pad_rows(values, self.num_pixels, fill)


def pad_rows(values: Tensor, lengths: Tensor, fill: float) -> Tensor:
    """Split values (P,) into rows of the given lengths (B,), padded to (B, longest)."""
    if not len(lengths):
        return values.new_zeros(0, 0)
    rows = list(torch.split(values, lengths.long().tolist()))
    return pad_sequence(rows, batch_first=True, padding_value=fill)


def sort_rows(values: Tensor) -> Tensor:
    """Sort each row of values (B, N), ascending."""
    if values.device.type == "cpu":  # NumPy's vectorised sort is 20 times as fast there.
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def dot(first: Tensor, second: Tensor) -> Tensor:
    """(B,) row-wise dot products of two (B, N)."""
    # BLAS sums long rows with errors of up to 1 % in float32.
    return (first * second).sum(1)
