"""Areas under ROC curves from counts, and draws that depend on an image's seed alone.

Maps are flat here, (B, N), and fixated pixels come as `Gaze`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emlnet.metrics.flat_maps import FlatMaps, Gaze, positions

NUM_STEPS = 10
"""The `mit` thresholds of AUC-Borji and sAUC: 0, 0.1, ... 1 of a map scaled to 0..1."""

NUM_CELLS = 1 << 16
"""How finely a map's range is cut to find most pixels' ranks without a search."""

_ONE = 0x3F800000
"""The bits of 1 as a float32."""
_LARGEST = torch.iinfo(torch.int64).max
_DRAWS_AT_ONCE = 1 << 22


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
    def of(cls, maps: FlatMaps, gaze: Gaze, work: Sequence[Tensor] | None = None) -> Ranking:
        """Ranking of maps.

        work: three of (B, N) float64, overwritten, made when not given; the last becomes the bins.
        """
        values, order = gaze.pad(maps.raw[gaze.image, gaze.pixel], torch.inf).sort(dim=1)
        counts = gaze.pad(gaze.counts, 0).gather(1, order)
        if maps.raw.device.type == "cpu" and len(values):
            if work is None:
                work = maps.raw.new_empty(3, *maps.raw.shape, dtype=torch.float64).unbind()
            scaled, cells, bins = work[0], work[1].view(torch.float32), work[2].view(torch.int64)
            for row in zip(maps.raw, values, maps.low, maps.high, scaled, cells, bins, strict=True):
                _fill_bins_by_cells(*row)
        else:
            bins = _bins(maps.raw, values)
        return cls(bins, values, counts)

    def area(
        self, positives: Tensor, negatives: Tensor | None = None, judd: bool = False
    ) -> Tensor:
        """Area under the ROC curve, (B,) float64; NaN without positives or negatives.

        positives: (B, P) float64 weights in the order of `counts`.  negatives: (B, N) float64
        weights, None for 1 each.  judd: positives are no negatives, the fixated values alone are
        thresholds, and the curve is straight between them; otherwise every value is a threshold,
        so that ties count 1/2.
        """
        if negatives is None:
            negatives = positives.new_ones(1).expand(self.bins.shape)
        num_bins = 2 * self.values.shape[1] + 2
        bins = positives.new_zeros(len(positives), num_bins)
        bins.scatter_add_(1, self.bins, negatives)
        place = 2 * torch.searchsorted(self.values, self.values) + 1
        if judd:
            bins.scatter_add_(1, place, -positives)
        up_to = bins.cumsum(1)
        beaten = up_to.gather(1, place) - bins.gather(1, place) / 2
        if judd:
            above = 2 * torch.searchsorted(self.values, self.values, right=True)
            beaten = beaten + bins.gather(1, above) / 2
        return (positives * beaten).sum(1) / (positives.sum(1) * up_to[:, -1])


def _bins(maps: Tensor, values: Tensor) -> Tensor:
    """Bins, as in `Ranking`, of maps (..., N) among rising values (..., P)."""
    place = torch.searchsorted(values, maps)
    equal = values.gather(-1, place.clamp(max=values.shape[-1] - 1)) == maps
    return place.mul_(2).add_(equal)


def _fill_bins_by_cells(
    raw: Tensor,
    values: Tensor,
    low: Tensor,
    high: Tensor,
    scaled: Tensor,
    cells: Tensor,
    bins: Tensor,
) -> None:
    """Writes `_bins` of one map (N,) among values (P,) to `bins`: several times faster on a CPU.

    low, high: (1,) the map's extremes.  scaled, cells: overwritten, (N,) float64, (2 N,) float32.
    The map's range is cut into cells, narrow where values are low, since saliency maps have long
    tails.  A cell without a fixated value is in one bin whole; only pixels of the other cells are
    searched for.
    """
    # A range too small or too large for its numbers is one cell, which is then searched whole.
    scale = torch.nan_to_num(1 / (high - low), posinf=0)
    fixated = values[values < torch.inf]
    taken = _to_cells(fixated, low, scale, fixated.double(), fixated.float()).long()
    table = torch.bincount(taken, minlength=NUM_CELLS).cumsum(0).mul_(2)
    table[taken] = -1
    cell = _to_cells(raw, low, scale, scaled, cells[: len(raw)])
    torch.index_select(table, 0, cell, out=bins)
    unsure = positions(bins, below=True)
    bins.index_copy_(0, unsure, _bins(raw[unsure], values))


def _to_cells(numbers: Tensor, low: Tensor, scale: Tensor, scaled: Tensor, cells: Tensor) -> Tensor:
    """The cell of each number (N,), int32 in the place of `cells`.

    Each step keeps the order; numbers that it makes equal share a cell.
    """
    out = cells if numbers.dtype == torch.float32 else scaled
    cells.copy_(torch.sub(numbers, low, out=out).mul_(scale))
    # About the fourth root, by a quarter of the float's exponent and mantissa taken as one number.
    cells.view(torch.int32).bitwise_right_shift_(2).add_(_ONE - (_ONE >> 2))
    cells.mul_(NUM_CELLS - 1)
    return cells.view(torch.int32).copy_(cells).clamp_(0, NUM_CELLS - 1)


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
            keys = keys.masked_fill_(pixels < 0, _LARGEST)
            order = keys.topk(min(gaze.most, width), dim=-1, largest=False).indices
            drawn = pixels.expand_as(keys).gather(-1, order).clamp_(min=0)
            size = torch.minimum(gaze.num_pixels, others.num_pixels)[:, None, None]
            used = (torch.arange(drawn.shape[-1], device=device) < size).double()
        values = maps.gather(1, drawn.flatten(1)).view(drawn.shape)
        alarms = _rates(_level(values), used)
        area += torch.trapezoid(hits[:, None].expand_as(alarms), alarms, dim=-1).sum(1)
    return area / num_splits
