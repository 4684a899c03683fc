"""The order of samples: a pure function of (seed, epoch, step, rank)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class EpochPlan(NamedTuple):
    """The samples of one rank in one epoch: a row for each step, b samples each.

    indices: (steps, b) int64 positions in the split.  weights: (steps, b) float32, 1, or 0 for
    samples that only fill a step.  flips: (steps, b) bool, samples to mirror.
    draws: (steps, b, 6) float32 in [0, 1): three for the crop, three for the colours.
    """

    indices: NDArray[np.int64]
    weights: NDArray[np.float32]
    flips: NDArray[np.bool_]
    draws: NDArray[np.float32]

    def steps(self, start: int = 0, num_parts: int = 1) -> Iterator[EpochPlan]:
        """Yield the rows of each step from `start` on, each split into `num_parts`."""
        for row in zip(*(values[start:] for values in self), strict=True):
            for part in zip(*(np.array_split(values, num_parts) for values in row), strict=True):
                yield EpochPlan(*part)


def epoch_plan(
    *,
    num_samples: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    flip: bool = False,
    parts: Sequence[int] = (),
    mix: Sequence[float] = (),
) -> EpochPlan:
    """Return the steps of one rank: its slice of each global batch.

    Order, flips and draws depend on (seed, epoch) only: any number of ranks reads the same batches.
    Samples of weight 0 fill up the last batch, and batches that the ranks cannot share equally.
    All ranks therefore have the same number of steps and of samples per step.  Without a mix, every
    sample has weight 1 exactly once.
    parts: sizes of the joined data sets.  mix: their shares of the batches.  The length of the
    epoch stays the same.  A data set whose share is larger than its part of the samples is read
    several times.  One whose share is smaller is read in part; the next epoch reads its next part.
    Raises ValueError if there are more ranks than samples in a batch.
    """
    if not 1 <= world_size <= batch_size:
        raise ValueError(f"{world_size} ranks cannot share a batch of {batch_size}")
    if num_samples < 1 or not 0 <= rank < world_size:
        raise ValueError(f"no samples for rank {rank} of {world_size} among {num_samples}")
    seeds = np.random.SeedSequence([seed, epoch])
    order = np.arange(num_samples)
    if shuffle:
        order = np.random.default_rng(seeds).permutation(num_samples)
    flip_seed, draw_seed = seeds.spawn(2)
    if mix:
        order = mixed_order(parts, mix, seed, epoch)
    num_steps = -(-num_samples // batch_size)
    places = num_steps * batch_size
    flips = np.random.default_rng(flip_seed).random(places) < 0.5
    draws = np.random.default_rng(draw_seed).random((places, 6), np.float32)
    share = -(-batch_size // world_size)
    # Columns of a rank; those beyond the batch repeat its first samples.
    columns = np.arange(rank * share, (rank + 1) * share)
    shown = np.arange(places).reshape(num_steps, batch_size)[:, columns % batch_size]
    counts = (columns < batch_size) & (shown < num_samples)
    return EpochPlan(
        indices=np.resize(order, places)[shown],
        weights=counts.astype(np.float32),
        flips=(flips & flip)[shown],
        draws=draws[shown],
    )


def mixed_order(
    sizes: Sequence[int], mix: Sequence[float], seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return positions (sum of sizes,) in joined data sets, in proportion to their shares.

    Each data set is read in shuffled passes, which continue across epochs.
    """
    check_mix(sizes, mix)
    total = sum(sizes)
    ends = np.rint(np.cumsum(np.array(mix) / sum(mix)) * total).astype(int)
    quotas = np.diff(ends, prepend=0)
    parts: list[NDArray[Any]] = []
    for number, (size, quota) in enumerate(zip(sizes, quotas, strict=True)):
        places = np.arange(epoch * quota, (epoch + 1) * quota)
        first_pass, last_pass = epoch * quota // size, ((epoch + 1) * quota - 1) // size
        passes = [
            np.random.default_rng([seed, number, turn]).permutation(size)
            for turn in range(first_pass, last_pass + 1)
        ]
        chosen = np.concatenate([np.zeros(0, int), *passes])[places - first_pass * size]
        parts.append(sum(sizes[:number]) + chosen)
    order = np.concatenate(parts)
    shuffled: NDArray[np.int64] = np.random.default_rng([seed, epoch]).permutation(order)
    return shuffled


def check_mix(parts: Sequence[object], mix: Sequence[float]) -> None:
    """Raise ValueError unless there is one share above 0 for each data set."""
    if len(mix) != len(parts) or not all(share > 0 for share in mix):
        raise ValueError(
            f"the mix needs one positive share per data set ({len(parts)}), not {tuple(mix)}"
        )
