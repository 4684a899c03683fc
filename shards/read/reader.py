"""The samples of a split, by position, of one or several data sets."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from emlnet.data.framing import Size
from emlnet.data.samples import Decoded, Sample
from shards.files.codec import decode_pictures, decode_record
from shards.files.manifest import Manifest
from shards.read.order import epoch_plan
from shards.read.remote import ShardFiles


class ShardReader:
    """The samples of one split of the data sets in `data`: folders here, or at s3://, gs://, http.

    manifest: the joined manifest of all data sets.  folder: the first data set's.
    parts: the number of samples of each data set.
    Raises ValueError if a folder does not match its manifest or lacks the split.
    """

    def __init__(self, data: Path | str | Sequence[Path | str], split: str) -> None:
        folders = [data] if isinstance(data, str | Path) else list(data)
        manifests = [Manifest.load(folder) for folder in folders]
        for folder, manifest in zip(folders, manifests, strict=True):
            if split not in manifest.splits:
                known = ", ".join(manifest.splits)
                raise ValueError(f"{folder} has no split {split!r}; it has {known}")
        self.folder, self.split = folders[0], split
        self.manifest = Manifest.join(manifests)
        self.shards = self.manifest.splits[split].shards
        self.entries = self.manifest.splits[split].samples
        self.parts = tuple(len(manifest.splits[split].samples) for manifest in manifests)
        self._files = [
            files
            for folder, manifest in zip(folders, manifests, strict=True)
            for files in [ShardFiles(folder, manifest)] * len(manifest.splits[split].shards)
        ]

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The samples' names in order."""
        return tuple(entry.key for entry in self.entries)

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """(H, W) of each sample in pixels."""
        return tuple((entry.height, entry.width) for entry in self.entries)

    def subset(self, positions: Sequence[int]) -> ShardReader:
        """Return a reader of the samples at these positions only, in this order."""
        part = copy.copy(self)
        for cached in ("keys", "sizes"):
            part.__dict__.pop(cached, None)
        part.entries = tuple(self.entries[position] for position in positions)
        ends = np.cumsum(self.parts)
        numbers = np.searchsorted(ends, np.array(positions, int), side="right")
        part.parts = tuple(np.bincount(numbers, minlength=len(ends)).tolist())
        return part

    def sample(self, position: int) -> Sample:
        """Read one sample.

        Raises ValueError naming shard and sample if its bytes are missing or changed, OSError if
        the storage fails.
        """
        entry = self.entries[position]
        files, shard = self._files[entry.shard], self.shards[entry.shard]
        record = files.read(shard, entry)
        try:
            return decode_record(record, entry.key)
        except ValueError as error:
            raise ValueError(f"{files.store.place(shard.file)}: {error}") from error

    def decoded(self, position: int) -> Decoded:
        """Read one sample and decode its pictures; raises the errors of `sample`."""
        sample = self.sample(position)
        try:
            return decode_pictures(sample)
        except ValueError as error:
            number = self.entries[position].shard
            place = self._files[number].store.place(self.shards[number].file)
            raise ValueError(f"{place}: {error}") from error


def step_keys(
    reader: ShardReader,
    batch_size: int,
    seed: int,
    epoch: int,
    step: int,
    mix: Sequence[float] = (),
) -> list[str]:
    """Return the keys of a step's training samples of all ranks; epoch and step are from 0."""
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
