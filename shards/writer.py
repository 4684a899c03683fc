"""Samples -> numbered tars and their manifest; the same input gives the same bytes.

Everything is written under a temporary name and put in place at the end, the manifest last: a build
that was stopped has none. `manifest.json.tmp` marks a folder as that of an unfinished build.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import logging
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from emlnet import maps
from shards import salicon
from shards.codec import pack
from shards.manifest import (
    CENTRE_PRIOR,
    MANIFEST,
    Dropped,
    IndexEntry,
    Manifest,
    Origin,
    Shard,
    Skipped,
    Split,
)

logger = logging.getLogger(__name__)

MARKER = MANIFEST + ".tmp"
OWN_FILES = re.compile(rf"([^/]+-\d{{6}}\.tar|{CENTRE_PRIOR}|{MANIFEST})(\.tmp)?")
SHARD_SIZE = 100
TAR_END, TAR_RECORD = 1_024, 10_240


def build(
    source: Path,
    out: Path,
    splits: Sequence[str] = (),
    shard_size: int = SHARD_SIZE,
    skip_incomplete: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Manifest:
    """Packs a raw folder in SALICON's layout into shards; keeps a finished build of the same.

    splits: those wanted, all that have gaze when empty.  shard_size: most samples of a shard.
    skip_incomplete: leave out, count and record samples that cannot be used.  seed: of the split
    that a folder without splits gets.
    Raises ValueError for input that cannot be used or an `out` that holds anything else; then, as
    when the disk is full (OSError), nothing is left in `out`.
    """
    if shard_size < 1:
        raise ValueError(f"a shard must hold at least 1 sample, not {shard_size}")
    raw = salicon.walk(source, splits, seed)
    origin = Origin(
        fingerprint=raw.fingerprint,
        split_seed=raw.split_seed,
        shard_size=shard_size,
        skip_incomplete=skip_incomplete,
    )
    if (out / MANIFEST).is_file():
        finished = Manifest.load(out)
        if finished.origin != origin:
            raise ValueError(
                f"{out} holds a data set built from other files or options; "
                "delete it or choose another folder"
            )
        logger.info("%s is already built from %s", out, source)
        return finished
    if raw.faults and not skip_incomplete:
        raise ValueError(_summary(raw.faults, raw.num_images))
    with _unfinished(out):
        manifest = _write(raw, out, origin, progress)
        (out / MARKER).write_text(manifest.dump())
        names = [shard.file for split in manifest.splits.values() for shard in split.shards]
        if manifest.centre_prior_sha256:
            names.append(CENTRE_PRIOR)
        for name in [*names, MANIFEST]:
            _sync(out / f"{name}.tmp")
            (out / f"{name}.tmp").replace(out / name)
        _sync(out)
    return manifest


def _write(raw: salicon.RawFolder, out: Path, origin: Origin, progress: bool) -> Manifest:
    """Writes shards and centre prior under temporary names and returns their manifest."""
    intake = _Intake(raw, origin.skip_incomplete, progress)
    with contextlib.closing(intake.bar):
        splits = {
            split: _write_split(out, split, intake.readings(split), origin.shard_size)
            for split in raw.splits
        }
    if intake.faults and not origin.skip_incomplete:
        raise ValueError(_summary(intake.faults, raw.num_images))
    if empty := [split for split, content in splits.items() if not content.samples]:
        raise ValueError(_summary(intake.faults, raw.num_images, empty))
    return Manifest(
        name=raw.path.resolve().name,
        splits=splits,
        dropped=Dropped(
            points_outside=intake.points_outside,
            empty_observers=intake.empty_observers,
            samples=tuple(Skipped(file=fault.what, reason=fault.kind) for fault in intake.faults),
            unlabelled_splits=raw.unlabelled,
        ),
        origin=origin,
        centre_prior_sha256=intake.write_centre_prior(out) if "train" in splits else None,
    )


def _write_split(
    out: Path, split: str, readings: Iterator[salicon.Reading], shard_size: int
) -> Split:
    """Writes one split as tars of at most `shard_size` samples, in the order they come."""
    shards: list[Shard] = []
    entries: list[IndexEntry] = []
    for first in readings:
        file = f"{split}-{len(shards):06d}.tar"
        digest, offset, before = hashlib.sha256(), 0, len(entries)
        with (out / f"{file}.tmp").open("wb") as tar:
            for reading in chain([first], islice(readings, shard_size - 1)):
                piece = pack(reading.sample)
                tar.write(piece)
                digest.update(piece)
                height, width = reading.decoded.density.shape
                entries.append(
                    IndexEntry(
                        key=reading.sample.key,
                        shard=len(shards),
                        offset=offset,
                        length=len(piece),
                        crc32=zlib.crc32(piece),
                        num_fixations=len(reading.sample.points),
                        height=height,
                        width=width,
                        num_observers=len(np.unique(reading.sample.observers)),
                    )
                )
                offset += len(piece)
            end = bytes(TAR_END + -(offset + TAR_END) % TAR_RECORD)
            tar.write(end)
            digest.update(end)
        shards.append(
            Shard(
                file=file,
                num_samples=len(entries) - before,
                num_bytes=offset + len(end),
                sha256=digest.hexdigest(),
            )
        )
    return Split(shards=tuple(shards), samples=tuple(entries))


class _Intake:
    """Reads the samples of a raw folder; counts what it drops and sums the densities of train."""

    def __init__(self, raw: salicon.RawFolder, skip_incomplete: bool, progress: bool) -> None:
        self.raw, self.skip_incomplete = raw, skip_incomplete
        self.faults = list(raw.faults)
        self.points_outside = self.empty_observers = 0
        self.density_sum: Tensor | None = None
        self.bar = tqdm(total=raw.num_images, desc="build", unit="image", disable=not progress)
        self.bar.update(len(self.faults))

    def readings(self, split: str) -> Iterator[salicon.Reading]:
        for raw_sample in self.raw.splits[split]:
            self.bar.update()
            try:
                reading = salicon.read(self.raw.path, raw_sample)
            except salicon.IncompleteSampleError as fault:
                self.faults.append(fault)
                continue
            if self.faults and not self.skip_incomplete:
                continue  # nothing will come of this build: go on only to name every fault
            self.points_outside += reading.num_points_outside
            self.empty_observers += reading.num_empty_observers
            if split == "train":
                self._add_density(reading.decoded.density)
            yield reading

    def _add_density(self, density: NDArray[np.uint8]) -> None:
        added = torch.from_numpy(density.astype(np.float64))[None, None]
        if self.density_sum is None:
            self.density_sum = torch.zeros_like(added)
        added = maps.resize(added, (self.density_sum.shape[-2], self.density_sum.shape[-1]))
        self.density_sum += added / added.sum()

    def write_centre_prior(self, out: Path) -> str:
        """Writes train's mean density, (H, W) float32, as large as its first; gives its SHA-256."""
        assert self.density_sum is not None
        mean = (self.density_sum / self.density_sum.sum())[0, 0].numpy().astype(np.float32)
        content = io.BytesIO()
        np.save(content, mean, allow_pickle=False)
        (out / f"{CENTRE_PRIOR}.tmp").write_bytes(content.getvalue())
        return hashlib.sha256(content.getvalue()).hexdigest()


@contextlib.contextmanager
def _unfinished(out: Path) -> Iterator[None]:
    """Claims `out` for one build; removes what a stopped one left, and all if this one fails."""
    is_new = not out.exists()
    if not is_new and not out.is_dir():
        raise ValueError(f"{out} is not a folder")
    names = [] if is_new else sorted(path.name for path in out.iterdir())
    foreign = [name for name in names if MARKER not in names or not OWN_FILES.fullmatch(name)]
    if foreign:
        raise ValueError(
            f"{out} holds {foreign[0]}, which no unfinished build left; choose an empty folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    with (out / MARKER).open("a") as marker:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another build is writing to {out}; wait for it to end") from None
        try:
            _remove(out, [name for name in names if name != MARKER])
            yield
        except BaseException:
            _remove(out, [path.name for path in out.iterdir() if OWN_FILES.fullmatch(path.name)])
            if is_new:
                out.rmdir()
            raise


def _remove(out: Path, names: list[str]) -> None:
    for name in names:
        (out / name).unlink()


def _sync(path: Path) -> None:
    """Waits until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _summary(
    faults: Sequence[salicon.IncompleteSampleError], num_images: int, empty: Sequence[str] = ()
) -> str:
    kinds: dict[str, list[str]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault.what)
    counts = [
        f"{len(files)} of {num_images} images {kind} (first: {files[0]})"
        for kind, files in kinds.items()
    ]
    way_out = (
        f"nothing is left of {', '.join(empty)}"
        if empty
        else "fetch them or pass --skip-incomplete"
    )
    return "; ".join([*counts, way_out])
