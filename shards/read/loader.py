"""Batches of one rank, read and decoded ahead of time by threads."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from emlnet.data.augment import Augmentation, colour_factors
from emlnet.data.framing import Size, random_part
from emlnet.data.samples import Batch, Decoded, collate
from shards.read.order import EpochPlan, epoch_plan
from shards.read.reader import ShardReader

PREFETCH = 2
"""Batches that each thread reads ahead."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ErrorPolicy:
    """Handling of samples that cannot be read."""

    on_error: Literal["strict", "skip"] = "strict"
    """A sample that cannot be read: `strict` stops, `skip` logs, counts and leaves it out."""
    max_skipped: float = 0.01
    """Largest share of a split's samples that `skip` may leave out; beyond it, reading stops."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_skipped < 1:
            raise ValueError(f"--max-skipped must be >= 0 and < 1, not {self.max_skipped}")


Unread = dict[int, tuple[float, str]]
"""Unreadable samples by position: the weight that each would have had, and the reason."""


class Loader:
    """Batches of one rank, decoded on demand or ahead of time by `num_workers` threads.

    Decoders release the GIL, so threads do the work of a DataLoader's processes.  They avoid a copy
    of each batch through shared memory, which costs as much as decoding it.

    batch_size: samples per step, all ranks together.  mix: shares of the data sets that the reader
    joins.
    canvas: (H, W) for samples of any size; without it all must have one size.
    stretch: fill the canvas instead of letterboxing.
    pin_memory: return batches in page-locked memory.
    micro_batch: if a rank's share of a batch is larger, split it into `num_parts` batches of about
    this size; 0: never.
    Raises ValueError if there are more ranks than samples in a batch, or if images of different
    sizes would share one.  Iterating raises ValueError or OSError for an unreadable sample.
    """

    def __init__(
        self,
        reader: ShardReader,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = False,
        augmentation: Augmentation | None = None,
        mix: Sequence[float] = (),
        canvas: Size | None = None,
        stretch: bool = False,
        errors: ErrorPolicy | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        micro_batch: int = 0,
    ) -> None:
        self.errors = errors or ErrorPolicy()
        self.reader, self.batch_size = reader, batch_size
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.shuffle, self.mix = shuffle, tuple(mix)
        self.augmentation = augmentation or Augmentation()
        self.skipped: set[int] = set()
        """Positions of this rank's unreadable samples."""
        self.num_unread = 0
        """Unreadable samples of the latest epoch, so far."""
        self.num_steps, share = self.plan(0).indices.shape
        self.num_parts = -(-share // (micro_batch or share))
        if batch_size > world_size and canvas is None:
            check_sizes(reader)
        self.canvas, self.stretch = canvas, stretch
        self.num_workers, self.pin_memory = num_workers, pin_memory

    def plan(self, epoch: int) -> EpochPlan:
        """Return the samples that this rank reads in an epoch, in order."""
        return epoch_plan(
            num_samples=len(self.reader),
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            flip=self.augmentation.flip,
            parts=self.reader.parts,
            mix=self.mix,
        )

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the epoch's batches from `start_step` on, as in an uninterrupted epoch."""
        self.num_unread = 0
        steps = self.plan(epoch).steps(start_step, self.num_parts)
        for batch, unread in self._ahead(steps) if self.num_workers else map(self._batch, steps):
            for position, (weight, reason) in unread.items():
                self.num_unread += bool(weight)
                self._skip(position, reason)
            yield batch

    def _ahead(self, steps: Iterable[EpochPlan]) -> Iterator[tuple[Batch, Unread]]:
        pool = ThreadPoolExecutor(self.num_workers, "decode")
        if self.pin_memory:  # Page-locked memory belongs to a thread's current device.
            device = torch.cuda.current_device()
            pool = ThreadPoolExecutor(self.num_workers, "decode", torch.cuda.set_device, (device,))
        pending: deque[Future[tuple[Batch, Unread]]] = deque()
        try:
            for step in steps:
                pending.append(pool.submit(self._batch, step))
                if len(pending) > PREFETCH * self.num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, step: EpochPlan) -> tuple[Batch, Unread]:
        samples: dict[int, Decoded] = {}
        unread: Unread = {}
        positions = step.indices.tolist()
        for position, weight in zip(positions, step.weights.tolist(), strict=True):
            try:
                samples[position] = self.reader.decoded(position)
            except (ValueError, OSError) as error:
                if self.errors.on_error == "strict":
                    raise
                unread.setdefault(position, (weight, str(error)))
        # For BatchNorm, another sample of weight 0 is better than a black picture.
        spares = {sample.density.shape: sample for sample in samples.values()}
        weights = step.weights * np.array([position in samples for position in positions])
        sizes = [self.reader.sizes[position] for position in positions]
        shown = [
            samples.get(position) or spares.get(size) or black_sample(size)
            for position, size in zip(positions, sizes, strict=True)
        ]
        parts, colour = None, None
        if self.augmentation.crop:
            parts = [
                random_part(sample.density.shape, self.augmentation.crop, draws[:3].tolist())
                for sample, draws in zip(shown, step.draws, strict=True)
            ]
        if self.augmentation.colour:
            colour = colour_factors(step.draws[:, 3:], self.augmentation.colour)
        batch = collate(
            shown,
            weights,
            step.flips,
            canvas=self.canvas,
            stretch=self.stretch,
            parts=parts,
            colour=colour,
        )
        return batch.pin_memory() if self.pin_memory else batch, unread

    def _skip(self, position: int, reason: str) -> None:
        """Count a sample that could not be read; ValueError when there are too many."""
        if position in self.skipped:
            return
        self.skipped.add(position)
        count = f"{len(self.skipped)} of {len(self.reader)} samples could not be read"
        logger.warning("skipped %s: %s (%s)", self.reader.keys[position], reason, count)
        if len(self.skipped) > self.errors.max_skipped * len(self.reader):
            raise ValueError(
                f"{count}, more than the {self.errors.max_skipped:.1%} that may be skipped; "
                f"the latest: {reason}"
            )


def black_sample(size: Size) -> Decoded:
    """Return a black picture without fixations."""
    return Decoded(
        key="blank",
        image=np.zeros((*size, 3), np.uint8),
        points=np.zeros((0, 2), np.int32),
        observers=np.zeros(0, np.int32),
        density=np.zeros(size, np.uint8),
    )


def check_sizes(reader: ShardReader) -> None:
    """Raise ValueError that names two samples when the split mixes image sizes."""
    for key, size in zip(reader.keys, reader.sizes, strict=True):
        if size != reader.sizes[0]:
            raise ValueError(
                f"image sizes differ: {reader.keys[0]} is {reader.sizes[0]}, {key} is {size}; "
                "expected one size"
            )
