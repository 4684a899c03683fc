"""Areas under ROC curves, and random draws that depend only on an image's seed."""

from __future__ import annotations

import torch
from torch import Tensor

from emlnet.metrics.flat_maps import FixatedPixels

NUM_STEPS = 10
"""Steps between the thresholds 0, 0.1, ... 1 of the `mit` AUC-Borji and sAUC."""

_LARGEST = torch.iinfo(torch.int64).max
_DRAWS_AT_ONCE = 1 << 22


def area_with_ties(
    positives: Tensor, weights: Tensor, negatives: Tensor, num_negatives: Tensor | int
) -> Tensor:
    """Area under the curve: the probability that a positive exceeds a negative, a tie counts 1/2.

    positives: (B, P).  weights: (B, P) float64, 0 in the padding.  negatives: (B, M), ascending,
    padded with infinity.  num_negatives: per image, without the padding.
    Returns (B,) float64; NaN without positives or negatives.
    """
    below = torch.searchsorted(negatives, positives)
    up_to = torch.searchsorted(negatives, positives, right=True)
    return (weights * (below + up_to) / 2).sum(1) / (weights.sum(1) * num_negatives)


def area_at_positives(positives: Tensor, num_positives: Tensor, pixels: Tensor) -> Tensor:
    """Area under the curve with the positives as thresholds, linear between them.

    positives: (B, P), padded with infinity.  num_positives: (B,) float64, without the padding.
    pixels: (B, N), all pixels' values, ascending; the negatives are all except the positives.
    Returns (B,) float64; NaN without positives.
    """
    end = torch.full_like(positives[:, :1], torch.inf)
    thresholds = torch.cat([positives.sort(dim=1).values, end], 1)
    below = torch.searchsorted(pixels, thresholds) - torch.searchsorted(thresholds, thresholds)
    next_higher = torch.searchsorted(thresholds, thresholds, right=True)
    next_higher = next_higher.clamp(max=thresholds.shape[1] - 1)
    beaten = (below + below.gather(1, next_higher)) / 2
    beaten = torch.where(thresholds < torch.inf, beaten, 0).double().sum(1)
    return beaten / (num_positives * (pixels.shape[1] - num_positives))


def area_in_steps(
    maps: Tensor,
    fixations: FixatedPixels,
    others: FixatedPixels | None,
    seeds: Tensor,
    num_splits: int,
) -> Tensor:
    """Mean area over random sets of negatives, thresholds in steps of 0.1.

    Each set has as many negatives as there are positives.  maps: (B, N) in 0..1.
    fixations: the positives; a pixel counts once.
    others: the pixels from which negatives are drawn without replacement; all are taken if they are
    fewer than the positives.  None: negatives are drawn from the whole map with replacement.
    seeds: (B,) int64.
    Returns (B,) float64; NaN without positives or negatives.
    """
    device, num_pixels = maps.device, maps.shape[1]
    found = fixations.rows(torch.ones_like(fixations.counts), 0)
    hits = _rates(fixations.rows(_level(fixations.of_maps(maps)), 0), found)
    candidates = None if others is None else others.rows(others.pixel, -1)[:, None]
    width = found.shape[1] if candidates is None else candidates.shape[2]
    step = max(1, _DRAWS_AT_ONCE // max(1, len(maps) * width))
    area = maps.new_zeros(len(maps), dtype=torch.float64)
    for start in range(0, num_splits, step):
        splits = torch.arange(start, min(start + step, num_splits), device=device)
        if others is None or candidates is None:
            columns = torch.arange(width, device=device)
            drawn = random_integers(seeds[:, None, None], splits[:, None], columns) % num_pixels
            used = found[:, None]
        else:
            keys = random_integers(seeds[:, None, None], splits[:, None], candidates)
            keys = keys.masked_fill_(candidates < 0, _LARGEST)
            order = keys.topk(min(found.shape[1], width), dim=-1, largest=False).indices
            drawn = candidates.expand_as(keys).gather(-1, order).clamp_(min=0)
            size = torch.minimum(fixations.num_pixels, others.num_pixels)[:, None, None]
            used = (torch.arange(drawn.shape[-1], device=device) < size).double()
        values = maps.gather(1, drawn.flatten(1)).view(drawn.shape)
        alarms = _rates(_level(values), used)
        area += torch.trapezoid(hits[:, None].expand_as(alarms), alarms, dim=-1).sum(1)
    return area / num_splits


def _level(values: Tensor) -> Tensor:
    """Return for each value how many of the thresholds 0, 0.1, ... 1 it reaches."""
    steps = torch.arange(NUM_STEPS + 1, device=values.device, dtype=values.dtype) / NUM_STEPS
    return torch.bucketize(values, steps, right=True)


def _rates(levels: Tensor, weights: Tensor) -> Tensor:
    """Return the share of values that reach each threshold, from the highest threshold down.

    levels: (..., P).  weights: (..., P) float64, 1 or 0.
    Returns (..., NUM_STEPS + 3): a 0 is put in front and a 1 at the end, the ends of a ROC curve.
    """
    counts = weights.new_zeros(*levels.shape[:-1], NUM_STEPS + 2)
    counts.scatter_add_(-1, levels, weights.expand(levels.shape).contiguous())
    above = counts.flip(-1).cumsum(-1)[..., :-1] / weights.sum(-1, keepdim=True)
    ends = torch.zeros_like(above[..., :1])
    return torch.cat([ends, above, ends + 1], dim=-1)


def random_integers(seeds: Tensor, *counters: Tensor) -> Tensor:
    """Return pseudo-random int64 in 0..2**63 - 1 for seeds and counters, which broadcast.

    They do not depend on the device, the batch or the order.
    Source: SplitMix64, Steele et al. 2014.
    """
    state = _mix(seeds.long() - 0x61C8864680B583EB)
    for counter in counters:
        state = _mix(state + counter.long() * -0x61C8864680B583EB)
    return state & _LARGEST


def _mix(state: Tensor) -> Tensor:
    """Map int64 values one-to-one to scrambled ones: SplitMix64's finaliser."""
    state = (state ^ ((state >> 30) & 0x3_FFFF_FFFF)) * -0x40A7B892E31B1A47
    state = (state ^ ((state >> 27) & 0x1F_FFFF_FFFF)) * -0x6B2FB644ECCEEE15
    return state ^ ((state >> 31) & 0x1_FFFF_FFFF)
