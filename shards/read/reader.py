"""The samples of a split, by position; those of several data sets as one."""

from __future__ import annotations

import bisect
import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from emlnet.data.framing import Size
from emlnet.data.samples import Decoded, Sample
from shards.files.codec import decode, unpack
from shards.files.manifest import Manifest
from shards.read.order import epoch_plan
from shards.read.remote import Pieces, open_pieces


class SplitReader(Protocol):
    """Samples by position."""

    @property
    def keys(self) -> Sequence[str]:
        """The samples' names."""

    @property
    def sizes(self) -> Sequence[Size]:
        """(H, W) of each sample in pixels."""

    @property
    def nums_fixations(self) -> Sequence[int]:
        """Fixations of each sample."""

    @property
    def parts(self) -> Sequence[int]:
        """The number of samples of each data set that they are from, one after another."""

    @property
    def digest(self) -> str:
        """The identity of the samples."""

    def __len__(self) -> int: ...

    def sample(self, position: int) -> Sample:
        """Reads one sample."""

    def decoded(self, position: int) -> Decoded:
        """Reads one sample and decodes its pictures."""


class ShardReader:
    """The samples of one split of a folder here, or of one at s3://, gs:// or http(s)://.

    Raises ValueError when the folder does not match its manifest or has no such split.
    """

    def __init__(self, folder: Path | str, split: str) -> None:
        self.folder, self.manifest = folder, Manifest.load(folder)
        if split not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise ValueError(f"{folder} has no split {split!r}; it has {known}")
        self.split = split
        self.shards = self.manifest.splits[split].shards
        self.entries = self.manifest.splits[split].samples
        self._pieces: Pieces = open_pieces(folder, self.manifest.digest)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.entries)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The samples' names in order."""
        return tuple(entry.key for entry in self.entries)

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """(H, W) of each sample in pixels."""
        return tuple((entry.height, entry.width) for entry in self.entries)

    @cached_property
    def nums_fixations(self) -> tuple[int, ...]:
        """Fixations of each sample."""
        return tuple(entry.num_fixations for entry in self.entries)

    @property
    def parts(self) -> tuple[int, ...]:
        """Their number: they are from one data set."""
        return (len(self),)

    @property
    def digest(self) -> str:
        """That of the data set."""
        return self.manifest.digest

    def subset(self, positions: Sequence[int]) -> ShardReader:
        """A reader of the samples at these positions only, in this order."""
        part = copy.copy(self)
        for cached in ("keys", "sizes", "nums_fixations"):
            part.__dict__.pop(cached, None)
        part.entries = tuple(self.entries[position] for position in positions)
        return part

    def sample(self, position: int) -> Sample:
        """Reads one sample.

        Raises ValueError naming shard and sample when its bytes have changed or are not there,
        OSError when the storage does not give them.
        """
        entry = self.entries[position]
        piece, place = self._pieces.read(self.shards[entry.shard], entry)
        try:
            return unpack(piece, entry.key)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error

    def decoded(self, position: int) -> Decoded:
        """Reads one sample and decodes its pictures; raises what `sample` does."""
        sample = self.sample(position)
        try:
            return decode(sample)
        except ValueError as error:
            shard = self.shards[self.entries[position].shard]
            raise ValueError(f"{self.folder}/{shard.file}: {error}") from error


class JointReader:
    """The samples of several readers, one after another."""

    def __init__(self, readers: Sequence[SplitReader]) -> None:
        self.readers = tuple(readers)
        self._starts = np.cumsum([0, *map(len, self.readers)]).tolist()
        self.keys = tuple(key for reader in self.readers for key in reader.keys)
        self.sizes = tuple(size for reader in self.readers for size in reader.sizes)
        self.nums_fixations = tuple(num for r in self.readers for num in r.nums_fixations)
        self.parts = tuple(map(len, self.readers))
        self.digest = "+".join(reader.digest for reader in self.readers)

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._starts[-1])

    def _find(self, position: int) -> tuple[SplitReader, int]:
        number = bisect.bisect_right(self._starts, position) - 1
        return self.readers[number], position - self._starts[number]

    def sample(self, position: int) -> Sample:
        """Reads one sample; raises what its reader does."""
        reader, own = self._find(position)
        return reader.sample(own)

    def decoded(self, position: int) -> Decoded:
        """Reads one sample and decodes its pictures; raises what its reader does."""
        reader, own = self._find(position)
        return reader.decoded(own)


def open_split(folders: Sequence[Path | str], split: str) -> SplitReader:
    """The samples of a split of one data set, or of several as one."""
    readers = [ShardReader(folder, split) for folder in folders]
    return readers[0] if len(readers) == 1 else JointReader(readers)


def step_keys(
    reader: SplitReader,
    batch_size: int,
    seed: int,
    epoch: int,
    step: int,
    mix: Sequence[float] = (),
) -> list[str]:
    """The names of the training samples of a step, of all ranks; epoch and step are from 0."""
    plan = epoch_plan(
        num_samples=len(reader),
        batch_size=batch_size,
        seed=seed,
        epoch=epoch,
        shuffle=True,
        parts=reader.parts,
        mix=mix,
    )
    shown = plan.indices[step][plan.weights[step] == 1]
    return [reader.keys[int(position)] for position in shown]
