"""Shards -> batches; what a rank reads is a pure function of (seed, epoch, position, rank)."""

from __future__ import annotations

import copy
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from emlnet.sample import Batch, Decoded, Sample, collate
from shards.codec import decode, unpack
from shards.manifest import Manifest, check_piece

Row = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]
"""One step of one rank, or a part of it: samples, their weights, which to mirror."""


class ShardReader:
    """The samples of one split, read by position.

    Raises ValueError when the folder does not match its manifest or has no such split.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.manifest = folder, Manifest.load(folder)
        if split not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise ValueError(f"{folder} has no split {split!r}; it has {known}")
        self.split = split
        self.shards = self.manifest.splits[split].shards
        self.entries = self.manifest.splits[split].samples

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.entries)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The samples' names in order."""
        return tuple(entry.key for entry in self.entries)

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(H, W) of each sample in pixels."""
        return tuple((entry.height, entry.width) for entry in self.entries)

    def subset(self, positions: Sequence[int]) -> ShardReader:
        """A reader of the samples at these positions alone, in this order."""
        part = copy.copy(self)
        for cached in ("keys", "sizes"):
            part.__dict__.pop(cached, None)
        part.entries = tuple(self.entries[position] for position in positions)
        return part

    def sample(self, position: int) -> Sample:
        """Reads one sample; ValueError naming shard and sample when its bytes have changed."""
        entry = self.entries[position]
        path = self.folder / self.shards[entry.shard].file
        with path.open("rb", buffering=0) as tar:
            piece = os.pread(tar.fileno(), entry.length, entry.offset)
        check_piece(piece, entry, path)
        return unpack(piece, entry.key)

    def decoded(self, position: int) -> Decoded:
        """Reads one sample and decodes its pictures."""
        return decode(self.sample(position))


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What one rank reads in one epoch, a row per step, b = batch size / ranks columns.

    indices: (steps, b) int64 positions in the split.  weights: (steps, b) float32, 1, or 0 where
    the last step is only filled up.  flips: (steps, b) bool, whether to mirror.
    """

    indices: NDArray[np.int64]
    weights: NDArray[np.float32]
    flips: NDArray[np.bool_]


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
) -> Plan:
    """The steps of one rank: its slice of each global batch of one global order.

    Order and flips come from (seed, epoch) alone, so any number of ranks reads the same batches.
    The last one is filled up from the start of the order with weight 0, and so is each where ranks
    cannot share it equally: every rank has equally many steps and samples in each, every sample has
    weight 1 exactly once.  Raises ValueError when there are more ranks than samples in a batch.
    """
    if not 1 <= world_size <= batch_size:
        raise ValueError(f"{world_size} ranks cannot share a batch of {batch_size}")
    if num_samples < 1 or not 0 <= rank < world_size:
        raise ValueError(f"no samples for rank {rank} of {world_size} among {num_samples}")
    seeds = np.random.SeedSequence([seed, epoch])
    order = np.arange(num_samples)
    if shuffle:
        order = np.random.default_rng(seeds).permutation(num_samples)
    num_steps = -(-num_samples // batch_size)
    places = num_steps * batch_size
    flips = np.random.default_rng(seeds.spawn(1)[0]).random(places) < 0.5
    share = -(-batch_size // world_size)
    # Columns of a rank; those beyond the batch show its first samples once more.
    columns = np.arange(rank * share, (rank + 1) * share)
    shown = np.arange(places).reshape(num_steps, batch_size)[:, columns % batch_size]
    counts = (columns < batch_size) & (shown < num_samples)
    return Plan(
        indices=np.resize(order, places)[shown],
        weights=counts.astype(np.float32),
        flips=(flips & flip)[shown],
    )


class Loader:
    """Batches of one rank, decoded in this process or in `num_workers` others.

    batch_size: of all ranks together.  flip: mirror half of the samples, drawn anew each epoch.
    pin_memory: hand batches out in page-locked memory.  micro_batch: a rank's share of a batch,
    when larger, comes in `num_parts` batches of about that size, one after another; 0: in one.
    Worker processes live as long as the loader. One epoch is read at a time.
    Raises ValueError when there are more ranks than samples in a batch, or images that would share
    one differ in size.
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
        flip: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
        micro_batch: int = 0,
    ) -> None:
        self.reader, self.batch_size = reader, batch_size
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.shuffle, self.flip = shuffle, flip
        self.num_steps, share = self.plan(0).indices.shape
        self.num_parts = -(-share // (micro_batch or share))
        if batch_size > world_size:
            check_sizes(reader)
        context = None
        if num_workers:
            # To fork a process with threads (Ray's, torch's) can deadlock. Torch is imported once.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["shards.reader"])
        self._rows = _Rows()
        self._batches: DataLoader[Batch] = DataLoader(
            _Steps(reader),
            batch_size=None,
            sampler=self._rows,
            num_workers=num_workers,
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
            flip=self.flip,
        )

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The epoch's batches from `start_step` on, exactly as if it had never stopped."""
        plan = self.plan(epoch)
        rows = list(zip(plan.indices, plan.weights, plan.flips, strict=True))[start_step:]
        self._rows.rows = [
            (indices, weights, flips)
            for row in rows
            for indices, weights, flips in zip(
                *(np.array_split(part, self.num_parts) for part in row), strict=True
            )
        ]
        yield from self._batches


class _Rows(torch.utils.data.Sampler[Row]):
    """The rows of the current epoch; it knows no loader, since a cycle would stall their end."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class _Steps(Dataset[Batch]):
    """Reads one step's samples and collates them; lives in the worker processes."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def __getitem__(self, row: Row) -> Batch:
        indices, weights, flips = row
        return collate([self.reader.decoded(int(i)) for i in indices], weights, flips)


def step_keys(folder: Path, batch_size: int, seed: int, epoch: int, step: int) -> list[str]:
    """The names of the training samples of a step, of all ranks; epoch and step are from 0."""
    reader = ShardReader(folder, "train")
    plan = epoch_plan(
        num_samples=len(reader), batch_size=batch_size, seed=seed, epoch=epoch, shuffle=True
    )
    shown = plan.indices[step][plan.weights[step] == 1]
    return [reader.entries[int(position)].key for position in shown]


def check_sizes(reader: ShardReader) -> None:
    """Raises ValueError that names two samples when the split mixes image sizes."""
    for key, size in zip(reader.keys, reader.sizes, strict=True):
        if size != reader.sizes[0]:
            raise ValueError(
                f"{reader.folder} mixes image sizes: {reader.keys[0]} is {reader.sizes[0]}, {key} "
                f"is {size}; resize them, or use a batch of one image per rank"
            )
