"""Batches of one rank, read and decoded here or in worker processes."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from emlnet.data.augment import Augmentation
from emlnet.data.framing import Size
from emlnet.data.samples import Batch
from shards.read.memory import MemoryReader
from shards.read.order import Plan, Step, epoch_plan
from shards.read.reader import Reader
from shards.read.steps import OnError, Parcel, Steps

PREFETCH = 2
"""Batches that each worker process reads ahead."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How samples are read."""

    on_error: OnError = "strict"
    """A sample that cannot be read: `strict` stops, `skip` logs, counts and leaves it out."""
    max_skipped: float = 0.01
    """Share of a split's samples that `skip` may leave out; more stops."""

    cache: Literal["none", "ram"] = "none"
    """`ram`: keep decoded samples in memory that a node's workers share; SALICON at 480 x 640 takes
    19 GB of it."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_skipped < 1:
            raise ValueError(f"a share to skip is in 0..1 (below 1), not {self.max_skipped}")


class Loader:
    """Batches of one rank, decoded in this process or in `num_workers` others.

    batch_size: of all ranks together.  mix: shares of the data sets that a JointReader joins.
    canvas: (H, W) on which samples of any size are shown; without it all have one size.
    stretch: fill the canvas instead of letterboxing.  maps: decode density maps, else all zeros.
    pin_memory: hand batches out in page-locked memory.  reuse: let worker processes write pictures
    where those of an earlier batch were: a batch is good until the next one but one is asked for.
    micro_batch: a rank's share of a batch, when larger, comes in `num_parts` batches of about that
    size, one after another; 0: in one.
    Worker processes live as long as the loader. One epoch is read at a time.
    Raises ValueError when there are more ranks than samples in a batch, or images that would share
    one differ in size.  While it is read, ValueError or OSError for a sample that cannot be.
    """

    def __init__(
        self,
        reader: Reader,
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
        maps: bool = True,
        reading: Reading | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        reuse: bool = False,
        micro_batch: int = 0,
    ) -> None:
        self.reading = reading or Reading()
        if self.reading.cache == "ram":
            reader = MemoryReader(reader)
            reader.reserve()
        self.reader, self.batch_size = reader, batch_size
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.shuffle, self.mix = shuffle, tuple(mix)
        self.augmentation = augmentation or Augmentation()
        self.skipped: set[int] = set()
        """Positions of this rank's samples that could not be read."""
        self.num_unread = 0
        """Those of the latest epoch, or of what was read of it."""
        self.num_steps, share = self.plan(0).indices.shape
        self.num_parts = -(-share // (micro_batch or share))
        if batch_size > world_size and canvas is None:
            check_sizes(reader)
        context = None
        if num_workers:
            # To fork a process with threads (Ray's, torch's) can deadlock. Torch is imported once.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["shards.read.steps"])
        # Fresh memory costs as much as decoding: each of its pages is a call of the kernel.
        slots = None
        if reuse and num_workers and not pin_memory:
            pixels = max(height * width for height, width in reader.sizes)
            share = -(-share // self.num_parts)
            # Those that workers are at, the one that is looked at, and the one before.
            size = (3 + maps) * pixels * share
            slots = torch.empty(PREFETCH * num_workers + 2, size, dtype=torch.uint8)
            slots.share_memory_()  # type: ignore[no-untyped-call]
        self._slots = slots
        self._rows = _Rows(0 if slots is None else len(slots))
        self._parcels: DataLoader[Parcel] = DataLoader(
            Steps(reader, self.augmentation, self.reading.on_error, canvas, stretch, maps, slots),
            batch_size=None,
            sampler=self._rows,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            prefetch_factor=PREFETCH if num_workers else None,
            multiprocessing_context=context,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            # Its own, else each epoch would advance torch's global random state.
            generator=torch.Generator(),
        )

    def plan(self, epoch: int) -> Plan:
        """What this rank reads in an epoch."""
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
        """The epoch's batches from `start_step` on, exactly as if it had never stopped."""
        self._rows.rows = list(self.plan(epoch).steps(start_step, self.num_parts))
        self.num_unread = 0
        for parcel in self._parcels:
            for position, reason, counts in parcel.failed:
                self.num_unread += counts
                self._skip(position, reason)
            yield parcel.batch(self._slots)

    def _skip(self, position: int, reason: str) -> None:
        """Counts a sample that could not be read; ValueError when there are too many."""
        if position in self.skipped:
            return
        self.skipped.add(position)
        count = f"{len(self.skipped)} of {len(self.reader)} samples could not be read"
        logger.warning("skipped %s: %s (%s)", self.reader.keys[position], reason, count)
        if len(self.skipped) > self.reading.max_skipped * len(self.reader):
            raise ValueError(
                f"{count}, more than the {self.reading.max_skipped:.1%} that may be skipped; "
                f"the latest: {reason}"
            )


class _Rows(torch.utils.data.Sampler[tuple[Step, int]]):
    """The rows of the current epoch; it knows no loader, since a cycle would stall their end.

    num_slots: pieces of memory that take turns, 0 when there are none.
    """

    def __init__(self, num_slots: int) -> None:
        self.rows: list[Step] = []
        self.num_slots = num_slots

    def __iter__(self) -> Iterator[tuple[Step, int]]:
        turns = range(len(self.rows))
        return zip(self.rows, (turn % max(1, self.num_slots) for turn in turns), strict=True)

    def __len__(self) -> int:
        return len(self.rows)


def _as_it_is(parcel: Any) -> Any:
    return parcel


def check_sizes(reader: Reader) -> None:
    """Raises ValueError that names two samples when the split mixes image sizes."""
    for key, size in zip(reader.keys, reader.sizes, strict=True):
        if size != reader.sizes[0]:
            raise ValueError(
                f"image sizes differ: {reader.keys[0]} is {reader.sizes[0]}, {key} is {size}; "
                "they can share a batch on a canvas alone"
            )
