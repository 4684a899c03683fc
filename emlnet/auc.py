"""Areas under ROC curves from counts, and draws that depend on an image's seed alone.

Maps are flat here, (B, N).  Fixated pixels come as `Gaze`: one row per pixel, whatever the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

NUM_STEPS = 10
"""The `mit` thresholds of AUC-Borji and sAUC: 0, 0.1, ... 1 of a map scaled to 0..1."""

_LARGEST = torch.iinfo(torch.int64).max
_DRAWS_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class Gaze:
    """Pixels that were looked at, in the order of images, and how often.

    image: (P,) int64 position in the batch.  pixel: (P,) int64 position in the flat image.
    counts: (P,) float64, above zero.  batch: the number of images, B.
    most: the largest number of rows that one image has, at least 1.
    """

    image: Tensor
    pixel: Tensor
    counts: Tensor
    batch: int
    most: int

    @classmethod
    def from_counts(cls, counts: Tensor, num_rows: int, most: int) -> Gaze:
        """Gaze from a flat count map (B, N), whose pixels above zero are known to be `num_rows`."""
        rows = torch.nonzero_static(counts > 0, size=num_rows)
        image, pixel = rows.unbind(1)
        return cls(image, pixel, counts[image, pixel].double(), counts.shape[0], max(most, 1))

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


@dataclass(frozen=True, eq=False)
class Ranking:
    """Where the pixels of a map lie among the values at its fixated pixels.

    bins: (B, N) int64; 2 k between the fixated values k - 1 and k, 2 k + 1 when equal to value k.
    values: (B, P) the fixated values, rising, filled up with infinity.  counts: (B, P) float64
    fixations, 0 where filled up.

    The fixated values are few, so finding each pixel's place among them costs less than sorting
    the pixels; ties stay ties.
    """

    bins: Tensor
    values: Tensor
    counts: Tensor

    @classmethod
    def of(cls, maps: Tensor, gaze: Gaze) -> Ranking:
        """Ranking of flat maps (B, N)."""
        values, order = gaze.pad(maps[gaze.image, gaze.pixel], torch.inf).sort(dim=1)
        counts = gaze.pad(gaze.counts, 0).gather(1, order)
        place = torch.searchsorted(values, maps)
        equal = values.gather(1, place.clamp(max=values.shape[1] - 1)) == maps
        return cls(place.mul_(2).add_(equal), values, counts)

    def area(self, positives: Tensor, negatives: Tensor, only_fixated: bool = False) -> Tensor:
        """Area under the ROC curve, (B,) float64; NaN without positives or negatives.

        positives: (B, P) float64 weights in the order of `counts`.  negatives: (B, N) float64
        weights.  only_fixated: thresholds are the fixated values alone and the curve is straight
        between them; otherwise every value is one, so that ties count 1/2.
        """
        num_bins = 2 * self.values.shape[1] + 2
        bins = negatives.new_zeros(negatives.shape[0], num_bins)
        bins.scatter_add_(1, self.bins, negatives)
        up_to = bins.cumsum(1)
        place = 2 * torch.searchsorted(self.values, self.values) + 1
        tied = bins.gather(1, place)
        beaten = up_to.gather(1, place) - tied / 2
        if only_fixated:
            above = 2 * torch.searchsorted(self.values, self.values, right=True)
            beaten = beaten + bins.gather(1, above) / 2
        return (positives * beaten).sum(1) / (positives.sum(1) * negatives.sum(1))


def _mix(state: Tensor) -> Tensor:
    """Scrambles int64 values, each to another (the finaliser of SplitMix64, Steele et al. 2014)."""
    state = (state ^ ((state >> 30) & 0x3_FFFF_FFFF)) * -0x40A7B892E31B1A47
    state = (state ^ ((state >> 27) & 0x1F_FFFF_FFFF)) * -0x6B2FB644ECCEEE15
    return state ^ ((state >> 31) & 0x1_FFFF_FFFF)


def draw(seeds: Tensor, *counters: Tensor) -> Tensor:
    """Pseudo-random int64 in 0..2**63 - 1 for each seed and counters, which broadcast.

    The same on every device, in every batch and in any order, since nothing is remembered.
    """
    state = _mix(seeds.long() - 0x61C8864680B583EB)
    for counter in counters:
        state = _mix(state + counter.long() * -0x61C8864680B583EB)
    return state & _LARGEST


def _level(values: Tensor) -> Tensor:
    """How many of the `mit` thresholds 0, 0.1, ... 1 do not exceed each value."""
    steps = torch.arange(NUM_STEPS + 1, device=values.device, dtype=torch.float64) / NUM_STEPS
    return torch.bucketize(values, steps, right=True)


def _rates(levels: Tensor, weights: Tensor) -> Tensor:
    """Share of values at or above each threshold, from the highest down, between a 0 and a 1.

    levels: (..., P).  weights: (..., P) float64, 1 or 0.  Returns (..., NUM_STEPS + 3).
    """
    counts = weights.new_zeros(*levels.shape[:-1], NUM_STEPS + 2)
    counts.scatter_add_(-1, levels, weights.expand(levels.shape).contiguous())
    above = counts.flip(-1).cumsum(-1)[..., :-1] / weights.sum(-1, keepdim=True)
    ends = torch.zeros_like(above[..., :1])
    return torch.cat([ends, above, ends + 1], dim=-1)


def area_in_steps(
    maps: Tensor, gaze: Gaze, others: Gaze | None, seeds: Tensor, num_splits: int
) -> Tensor:
    """Mean area over random sets of negatives, thresholds in steps of 0.1; (B,) float64.

    maps: (B, N) float64 in 0..1.  gaze: the positives, each fixated pixel once.
    others: pixels to draw negatives from, as many as positives (all if fewer), each at most once;
    None draws from all pixels, with repeats.  seeds: (B,) int64.  NaN without positives or
    negatives.
    """
    device, num_pixels = maps.device, maps.shape[1]
    found = gaze.pad(torch.ones_like(gaze.counts), 0)
    hits = _rates(gaze.pad(_level(maps[gaze.image, gaze.pixel]), 0), found)
    width = gaze.most if others is None else others.most
    step = max(1, _DRAWS_AT_ONCE // (gaze.batch * width))
    area = maps.new_zeros(gaze.batch)
    for start in range(0, num_splits, step):
        splits = torch.arange(start, min(start + step, num_splits), device=device)
        if others is None:
            columns = torch.arange(width, device=device)
            drawn = draw(seeds[:, None, None], splits[:, None], columns) % num_pixels
            used = found[:, None]
        else:
            pixels = others.pad(others.pixel, -1)[:, None]
            keys = draw(seeds[:, None, None], splits[:, None], pixels)
            order = keys.masked_fill_(pixels < 0, _LARGEST).argsort(dim=-1)[..., : gaze.most]
            drawn = pixels.expand_as(keys).gather(-1, order).clamp_(min=0)
            size = torch.minimum(gaze.num_pixels, others.num_pixels)[:, None, None]
            used = (torch.arange(drawn.shape[-1], device=device) < size).double()
        values = maps.gather(1, drawn.flatten(1)).view(drawn.shape)
        alarms = _rates(_level(values), used)
        area += torch.trapezoid(hits[:, None].expand_as(alarms), alarms, dim=-1).sum(1)
    return area / num_splits
