"""What a folder of shards holds and where; refuses a folder that differs from its manifest."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.codec import unpack

SCHEMA = 1
MANIFEST = "manifest.json"
CENTRE_PRIOR = "centre-train.npy"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar: its file name, samples, bytes and checksum."""

    file: str
    num_samples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """Where one sample lies, and what can be known without reading it.

    key: `split/stem`.  shard: position in the split's shards.  offset, length: bytes in the tar.
    crc32: of those bytes.  height, width: pixels of the upright photograph.
    """

    key: str
    shard: int
    offset: int
    length: int
    crc32: int
    num_fixations: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Split:
    """The shards of one split and its samples in order."""

    shards: tuple[Shard, ...]
    samples: tuple[IndexEntry, ...]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file of the source that `--skip-incomplete` left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """What the source holds and the shards do not; unlabelled_splits have images but no gaze."""

    points_outside: int
    empty_observers: int
    samples: tuple[Skipped, ...]
    unlabelled_splits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The source and options a build was made from; equal origins make equal builds.

    fingerprint: of the source's files.  split_seed: of a split that was made, None where the source
    had its own.
    """

    fingerprint: str
    split_seed: int | None
    shard_size: int
    skip_incomplete: bool


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole data set: `manifest.json`, the file that is written last.

    centre_prior_sha256: of the file `centre-train.npy`, None when there is no train split.
    """

    schema: int = SCHEMA
    name: str
    splits: Mapping[str, Split]
    dropped: Dropped
    origin: Origin
    centre_prior_sha256: str | None

    @property
    def digest(self) -> str:
        """SHA-256 that identifies the data: samples, their order and shards; not where or when."""
        content = json.dumps([self.schema, self.splits], default=vars, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def dump(self) -> str:
        """The manifest as JSON text, which `load` reads."""
        return json.dumps(self, default=vars, indent=1) + "\n"

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads the folder's manifest; the files it names must be there with their sizes.

        Raises ValueError with what differs.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no finished data set ({MANIFEST} is missing); "
                "run `python -m shards build` (again)"
            )
        try:
            manifest = _parse(json.loads(path.read_text()))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is not a manifest of schema {SCHEMA}: {error}") from error
        for split, content in manifest.splits.items():
            _check_index(split, content)
            for shard in content.shards:
                _check_size(folder / shard.file, shard.num_bytes)
        if manifest.centre_prior_sha256 and not (folder / CENTRE_PRIOR).is_file():
            raise ValueError(f"{folder / CENTRE_PRIOR} is missing; build the data set again")
        return manifest

    def centre_prior(self, folder: Path) -> NDArray[np.float32]:
        """(H, W) mean density of train, sums to 1: the centre-bias baseline.

        Raises ValueError when the data set has no train split or the file has changed.
        """
        if self.centre_prior_sha256 is None:
            raise ValueError(f"{folder} has no train split, so no centre prior")
        path = folder / CENTRE_PRIOR
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.centre_prior_sha256:
            raise ValueError(f"{path} has changed since it was built; build the data set again")
        prior: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return prior


def verify(folder: Path, full: bool = True) -> Manifest:
    """Checks a folder against its manifest and returns it.

    Counts and sizes always; with `full` every checksum, and that every range holds its sample.
    Raises ValueError with the reason: a missing, cut, changed or surplus file.
    """
    manifest = Manifest.load(folder)
    known = {shard.file for split in manifest.splits.values() for shard in split.shards}
    for path in sorted(folder.iterdir()):
        if path.suffix in {".tar", ".tmp"} and path.name not in known:
            raise ValueError(f"{path} is not in the manifest; delete it or build again")
    if full:
        if manifest.centre_prior_sha256:
            manifest.centre_prior(folder)
        for split in manifest.splits.values():
            for position, shard in enumerate(split.shards):
                entries = [entry for entry in split.samples if entry.shard == position]
                _check_content(folder / shard.file, shard, entries)
    return manifest


def check_piece(piece: bytes, entry: IndexEntry, path: Path) -> None:
    """Raises ValueError naming shard and sample when the bytes are not those the manifest knows."""
    if len(piece) != entry.length:
        raise ValueError(
            f"{path} is cut: sample {entry.key} has {len(piece)} of {entry.length} bytes"
        )
    if zlib.crc32(piece) != entry.crc32:
        raise ValueError(f"{path} has changed: the checksum of sample {entry.key} differs")


def _check_content(path: Path, shard: Shard, entries: list[IndexEntry]) -> None:
    content = path.read_bytes()
    for entry in entries:
        piece = content[entry.offset : entry.offset + entry.length]
        check_piece(piece, entry, path)
        num_fixations = len(unpack(piece, entry.key).points)
        if num_fixations != entry.num_fixations:
            raise ValueError(
                f"{path}: sample {entry.key} has {num_fixations} fixations, "
                f"the manifest says {entry.num_fixations}"
            )
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise ValueError(f"{path} has changed: its checksum differs")


def _check_size(path: Path, num_bytes: int) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing; build the data set again")
    if path.stat().st_size != num_bytes:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, the manifest says {num_bytes}")


def _check_index(name: str, split: Split) -> None:
    """Raises ValueError unless the samples fill the shards one after another, each named once."""
    if len({entry.key for entry in split.samples}) != len(split.samples):
        raise ValueError(f"the manifest names a sample of {name} twice")
    shard, offset = -1, 0
    for entry in split.samples:
        if entry.shard == shard + 1:
            shard, offset = entry.shard, 0
        if entry.shard != shard or entry.offset != offset or shard >= len(split.shards):
            raise ValueError(
                f"the manifest's place of {entry.key} does not follow the sample before"
            )
        offset += entry.length
    counts = np.bincount([entry.shard for entry in split.samples], minlength=len(split.shards))
    if counts.tolist() != [shard.num_samples for shard in split.shards]:
        raise ValueError(f"the manifest's counts of {name}'s shards do not match its samples")


def _parse(raw: dict) -> Manifest:  # type: ignore[type-arg]
    if raw["schema"] != SCHEMA:
        raise ValueError(f"it has schema {raw['schema']}; build the data set again")
    splits = {
        name: Split(
            shards=tuple(Shard(**shard) for shard in split["shards"]),
            samples=tuple(IndexEntry(**entry) for entry in split["samples"]),
        )
        for name, split in raw["splits"].items()
    }
    for split in splits.values():
        for shard in split.shards:
            if Path(shard.file).name != shard.file:
                raise ValueError(f"shard {shard.file!r} lies outside the folder")
    dropped = raw["dropped"]
    dropped["samples"] = tuple(Skipped(**skipped) for skipped in dropped["samples"])
    dropped["unlabelled_splits"] = tuple(dropped["unlabelled_splits"])
    rest = {"splits": splits, "dropped": Dropped(**dropped), "origin": Origin(**raw["origin"])}
    return Manifest(**{**raw, **rest})
