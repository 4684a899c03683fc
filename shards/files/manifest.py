"""The manifest of a folder of shards: its samples and their positions, checked when read."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from emlnet.data.images import MAX_PIXELS
from shards.files.store import Store

SCHEMA: Literal[2] = 2
MANIFEST = "manifest.json"
CENTRE_PRIOR = "centre-train.npy"
NAME = r"[^/\\\x00]*[^/\\\x00.][^/\\\x00]*"
"""A file name: not a path, and not only dots."""

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar: its file name, samples, bytes and checksum."""

    file: Annotated[str, Field(pattern=rf"^{NAME}\.tar$")]
    num_samples: Count
    num_bytes: Count
    sha256: str


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """Position and properties of one sample, known without reading it.

    key: `split/stem`.  shard: position in the split's shards.  offset, length: bytes in the tar.
    crc32: checksum of these bytes.  height, width: pixels of the upright photograph.
    num_observers: observers with a fixation; None if unknown.
    density_cc: correlation of a density map from a file with one made from the fixations, or None.
    picture_hash: see shards.files.picture_hash.
    """

    key: Annotated[str, Field(pattern=rf"^{NAME}/{NAME}$")]
    shard: Count
    offset: Count
    length: Annotated[int, Field(ge=1)]
    crc32: int
    num_fixations: Count
    height: Annotated[int, Field(ge=1, le=MAX_PIXELS)]
    width: Annotated[int, Field(ge=1, le=MAX_PIXELS)]
    num_observers: int | None = None
    density_cc: float | None = None
    picture_hash: str | None = None


@dataclass(frozen=True, kw_only=True)
class FixationStatistics:
    """The fixations of one split.

    num: all fixations.  num_pixels: fixated pixels, summed over the images.  least, most: smallest
    and largest number of fixations in an image.  mean, deviation: mean and standard deviation of
    (x, y), as fractions of width and height.
    """

    num: int
    num_pixels: int
    least: int
    most: int
    mean: tuple[float, float]
    deviation: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Split:
    """The shards and the ordered samples of one split; no statistics before schema 2."""

    shards: tuple[Shard, ...]
    samples: tuple[IndexEntry, ...]
    fixations: FixationStatistics | None = None


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file of the source that `--skip-incomplete` left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """Data left out of the shards; unlabelled_splits have images but no gaze."""

    points_outside: int
    empty_observers: int
    samples: tuple[Skipped, ...]
    unlabelled_splits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Source and options of a build; equal origins make equal builds.

    fingerprint: digest of the source's files.  split_seed: seed of a random split; None if the
    source has splits.  format: the layout's name, as in `build --format`.  maps: source of density
    maps, `files` or `fixations`.  sigma: sigma in pixels of the maps' Gaussian; None if unknown.
    drop_duplicates: whether train's photographs were removed from val and test.
    """

    fingerprint: str
    split_seed: int | None
    shard_size: int
    skip_incomplete: bool
    format: str = "salicon"
    maps: str = "files"
    sigma: float | None = None
    drop_duplicates: bool = False


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A whole data set: `manifest.json`, the file that is written last.

    edition: the source's edition; None if there is only one or it is unknown.
    licence: the source's licence; None if unknown.
    centre_prior_sha256: SHA-256 of the file `centre-train.npy`; None without a train split.
    """

    schema: Literal[1, 2] = SCHEMA
    name: str
    edition: str | None = None
    licence: str | None = None
    splits: Mapping[str, Split]
    dropped: Dropped
    origin: Origin
    centre_prior_sha256: str | None

    @property
    def digest(self) -> str:
        """SHA-256 of the data: samples, their order and shards; not of their folder or time."""
        # As in schema 1: older data sets keep the digest that runs and models have recorded.
        described = ("num_observers", "density_cc", "picture_hash")
        content = {
            name: {
                "shards": split.shards,
                "samples": [
                    {key: value for key, value in vars(entry).items() if key not in described}
                    for entry in split.samples
                ],
            }
            for name, split in self.splits.items()
        }
        text = json.dumps([1, content], default=vars, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def dump(self) -> str:
        """Return the manifest as JSON text, which `load` reads."""
        return json.dumps(self, default=vars, indent=1) + "\n"

    @classmethod
    def parse(cls, text: bytes, place: str) -> Manifest:
        """Parse the JSON text; ValueError starting with `place` if it is not a manifest."""
        try:
            manifest = TypeAdapter(cls).validate_json(text, strict=True)
            for split, content in manifest.splits.items():
                _check_index(split, content)
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise ValueError(f"{place} is not a manifest of schema {SCHEMA}: {reason}") from None
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        return replace(manifest, schema=SCHEMA)

    @classmethod
    def load(cls, folder: Path | str) -> Manifest:
        """Read the folder's manifest; ValueError unless its files exist with their sizes."""
        store = Store(folder)
        try:
            text = store.read(MANIFEST)
        except FileNotFoundError as error:
            raise ValueError(
                f"{folder} holds no finished data set ({MANIFEST} is missing); "
                "run `python -m shards build` (again)"
            ) from error
        manifest = cls.parse(text, store.place(MANIFEST))
        if store.scheme in ("http", "https"):  # Cannot list files; shards are checked when fetched.
            return manifest
        sizes = store.sizes()
        expected: dict[str, int | None] = {s.file: s.num_bytes for s in manifest.shards}
        if manifest.centre_prior_sha256:
            expected[CENTRE_PRIOR] = None
        for name, num_bytes in expected.items():
            if name not in sizes:
                raise ValueError(f"{store.place(name)} is missing; build the data set again")
            if num_bytes not in (None, sizes[name]):
                raise ValueError(
                    f"{store.place(name)} has {sizes[name]} bytes, the manifest says {num_bytes}"
                )
        return manifest

    @classmethod
    def join(cls, manifests: Sequence[Manifest]) -> Manifest:
        """Concatenate data sets, in the splits that all of them have."""
        if len(manifests) == 1:
            return manifests[0]
        splits = {}
        for name in manifests[0].splits:
            parts = [manifest.splits[name] for manifest in manifests if name in manifest.splits]
            if len(parts) < len(manifests):
                continue
            starts = np.cumsum([0, *(len(part.shards) for part in parts)]).tolist()
            splits[name] = Split(
                shards=tuple(shard for part in parts for shard in part.shards),
                samples=tuple(
                    replace(entry, shard=start + entry.shard)
                    for start, part in zip(starts, parts, strict=False)
                    for entry in part.samples
                ),
            )
        name = "+".join(manifest.name for manifest in manifests)
        licences = dict.fromkeys(manifest.licence or "unknown" for manifest in manifests)
        return replace(manifests[0], name=name, licence=" and ".join(licences), splits=splits)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards of all splits."""
        return tuple(shard for split in self.splits.values() for shard in split.shards)

    def centre_prior(self, folder: Path | str) -> NDArray[np.float32]:
        """Return train's mean density (H, W), which sums to 1: the centre-bias baseline.

        Raises ValueError if the data set has no train split or the file has changed.
        """
        if self.centre_prior_sha256 is None:
            raise ValueError(f"{folder} has no train split, so no centre prior")
        store = Store(folder)
        content = store.read(CENTRE_PRIOR)
        if hashlib.sha256(content).hexdigest() != self.centre_prior_sha256:
            raise ValueError(
                f"{store.place(CENTRE_PRIOR)} has changed since it was built; "
                "build the data set again"
            )
        prior: NDArray[np.float32] = np.load(io.BytesIO(content), allow_pickle=False)
        return prior


def check_record(record: bytes, entry: IndexEntry, path: Path | str) -> None:
    """Raise ValueError naming shard and sample if the bytes do not match the manifest."""
    if len(record) != entry.length:
        raise ValueError(
            f"{path} is truncated: sample {entry.key} has {len(record)} of {entry.length} bytes"
        )
    if zlib.crc32(record) != entry.crc32:
        raise ValueError(f"{path} has changed: the checksum of sample {entry.key} differs")


def _check_index(name: str, split: Split) -> None:
    """Raise ValueError unless the samples fill the shards in order, each named once."""
    if len({entry.key for entry in split.samples}) != len(split.samples):
        raise ValueError(f"the manifest names a sample of {name} twice")
    shard, offset = -1, 0
    for entry in split.samples:
        if not entry.key.startswith(f"{name}/"):
            raise ValueError(f"the manifest's sample {entry.key} is not in the split {name}")
        if entry.height * entry.width > MAX_PIXELS:
            raise ValueError(f"sample {entry.key} claims {entry.width} x {entry.height} pixels")
        if entry.shard == shard + 1:
            shard, offset = entry.shard, 0
        if entry.shard != shard or entry.offset != offset or shard >= len(split.shards):
            raise ValueError(
                f"the offset of {entry.key} in the manifest does not follow the sample before"
            )
        offset += entry.length
        if offset > split.shards[shard].num_bytes:
            raise ValueError(f"the offset of {entry.key} in the manifest is beyond its shard's end")
    counts = np.bincount([entry.shard for entry in split.samples], minlength=len(split.shards))
    if counts.tolist() != [shard.num_samples for shard in split.shards]:
        raise ValueError(f"the manifest's counts of {name}'s shards do not match its samples")
