"""One shard of a build: the unit of work that may run in any process, on any machine.

A part is a shard under its temporary name, and a record of what is in it; the record is written
last, so a part that has one is done. Parts depend on nothing but their own samples.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emlnet.data import maps
from shards.files.codec import pack
from shards.files.manifest import IndexEntry, Shard, Skipped
from shards.files.picture_hash import picture_hash
from shards.files.store import Store
from shards.layouts.raw_samples import (
    CheckedSample,
    IncompleteSampleError,
    RawFolder,
    RawSample,
    read,
)

TEMPORARY = ".tmp"
RECORD, DENSITY_SUM = ".part.json", ".part.npy"
TAR_END, TAR_RECORD = 1_024, 10_240


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to write.

    folder: the source, without samples.  samples: those of the shard, in order.
    sigma: of density maps that are made, and of those that others are compared with.
    with_sum: also add up the densities, for the centre prior.
    """

    out: str
    file: str
    folder: RawFolder
    samples: tuple[RawSample, ...]
    sigma: float | None
    with_sum: bool


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """The contents of one shard.

    samples: their `shard` is 0.  moments: over fixations, the sums of x, y, x squared and
    y squared, in parts of the width and height.
    """

    shard: Shard
    samples: tuple[IndexEntry, ...]
    faults: tuple[Skipped, ...]
    points_outside: int
    empty_observers: int
    num_pixels: int
    moments: tuple[float, float, float, float]

    def dump(self) -> bytes:
        """The record as JSON."""
        return json.dumps(self, default=vars).encode()

    @classmethod
    def parse(cls, text: bytes) -> ShardRecord:
        """The record that `dump` gave."""
        raw = json.loads(text)
        return cls(
            **{
                **raw,
                "shard": Shard(**raw["shard"]),
                "samples": tuple(IndexEntry(**entry) for entry in raw["samples"]),
                "faults": tuple(Skipped(**fault) for fault in raw["faults"]),
                "moments": tuple(raw["moments"]),
            }
        )


def write_part(task: ShardTask) -> int:
    """Writes one shard and its record; returns the number of samples it was given.

    Samples that cannot be used are left out and named in the record.
    Raises OSError naming the shard when the storage fails.
    """
    store = Store(task.out)
    entries: list[IndexEntry] = []
    faults: list[Skipped] = []
    outside = empty = num_pixels = 0
    moments = np.zeros(4)
    density_sum: NDArray[np.float64] | None = None
    digest, offset = hashlib.sha256(), 0
    with store.writing(task.file + TEMPORARY) as tar:
        for raw in task.samples:
            try:
                checked = read(task.folder, raw, task.sigma)
            except IncompleteSampleError as fault:
                faults.append(Skipped(file=fault.what, reason=fault.kind))
                continue
            piece = pack(checked.sample)
            tar.write(piece)
            digest.update(piece)
            entries.append(_entry(checked, piece, offset))
            offset += len(piece)
            outside += checked.num_points_outside
            empty += checked.num_empty_observers
            num_pixels += len(np.unique(checked.sample.points, axis=0))
            size = np.array(checked.density.shape[::-1])
            places = (checked.sample.points + 0.5) / size
            moments += np.concatenate([places.sum(0), (places**2).sum(0)])
            if task.with_sum:
                density_sum = add_density(density_sum, checked.density)
        end = bytes(TAR_END + -(offset + TAR_END) % TAR_RECORD)
        tar.write(end)
        digest.update(end)
    if density_sum is not None:
        content = io.BytesIO()
        np.save(content, density_sum.astype(np.float32), allow_pickle=False)
        store.put(task.file + DENSITY_SUM, content.getvalue())
    part = ShardRecord(
        shard=Shard(
            file=task.file,
            num_samples=len(entries),
            num_bytes=offset + len(end),
            sha256=digest.hexdigest(),
        ),
        samples=tuple(entries),
        faults=tuple(faults),
        points_outside=outside,
        empty_observers=empty,
        num_pixels=num_pixels,
        moments=(float(moments[0]), float(moments[1]), float(moments[2]), float(moments[3])),
    )
    store.put(task.file + RECORD, part.dump())
    return len(task.samples)


def add_density(
    total: NDArray[np.float64] | None, density: NDArray[Any], mass: float = 1
) -> NDArray[np.float64]:
    """Adds a density (H, W) of any scale, with a sum of `mass`, at the size of the first one."""
    total = np.zeros(density.shape) if total is None else total
    if density.shape != total.shape:
        whole = torch.from_numpy(density.astype(np.float64))[None, None]
        density = maps.resize(whole, (total.shape[0], total.shape[1]))[0, 0].numpy()
    total += density * (mass / density.sum(dtype=np.float64))
    return total


def is_done(store: Store, sizes: dict[str, int], file: str) -> bool:
    """Whether the part has its record, and its shard is there whole, in place or not yet.

    sizes: of the files that the store holds.
    """
    if file + RECORD not in sizes:
        return False
    shard = ShardRecord.parse(store.read(file + RECORD)).shard
    return shard.num_bytes in (sizes.get(file + TEMPORARY), sizes.get(file))


def _entry(checked: CheckedSample, piece: bytes, offset: int) -> IndexEntry:
    sample = checked.sample
    height, width = checked.density.shape
    known = sample.observers[sample.observers >= 0]
    return IndexEntry(
        key=sample.key,
        shard=0,
        offset=offset,
        length=len(piece),
        crc32=zlib.crc32(piece),
        num_fixations=len(sample.points),
        height=height,
        width=width,
        num_observers=len(np.unique(known)) if len(known) else None,
        density_cc=checked.density_cc,
        picture_hash=picture_hash(sample.image),
    )


def without_samples(folder: RawFolder) -> RawFolder:
    """The folder as a task carries it, to a process that may work in another folder."""
    return replace(folder, path=folder.path.absolute(), splits={}, faults=())
