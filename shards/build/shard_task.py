"""Write one shard of a build: the unit of work, in any thread or on any machine.

A shard has a file with a description of its contents, which is written last: a shard that has one
is complete.  A shard depends only on its own samples.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from emlnet.data import maps
from shards.files.codec import TAR_END, encode_record
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

CONTENTS, DENSITY_SUM = ".part.json", ".part.npy"


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to write.

    folder: the source, without samples.  samples: the shard's samples, in order.
    sigma: sigma in pixels of the Gaussian that makes density maps or checks those from files.
    with_sum: also add up the densities, for the centre prior.
    """

    out: str
    file: str
    folder: RawFolder
    samples: tuple[RawSample, ...]
    sigma: float | None
    with_sum: bool


@dataclass(frozen=True, kw_only=True)
class ShardContents:
    """The contents of one shard.

    samples: entries for the manifest, with `shard` 0 until it is known.  moments: sums over
    fixations of (x, y) and of their squares, as fractions of width and height.
    """

    shard: Shard
    samples: tuple[IndexEntry, ...]
    faults: tuple[Skipped, ...]
    points_outside: int
    empty_observers: int
    num_pixels: int
    moments: list[list[float]]

    @classmethod
    def read(cls, store: Store, file: str) -> ShardContents:
        """Read the contents of a shard from its description."""
        return TypeAdapter(cls).validate_json(store.read(file + CONTENTS))


def write_shard(task: ShardTask) -> int:
    """Write one shard and its description; return the number of samples it was given.

    Unusable samples are left out and named in the description.
    Raises OSError naming the shard if the storage fails.
    """
    store = Store(task.out)
    entries: list[IndexEntry] = []
    faults: list[Skipped] = []
    outside = empty = num_pixels = 0
    moments = np.zeros((2, 2))
    density_sum: NDArray[np.float64] | None = None
    digest, offset = hashlib.sha256(), 0
    with store.writing(task.file) as tar:
        for raw in task.samples:
            try:
                checked = read(task.folder, raw, task.sigma)
            except IncompleteSampleError as fault:
                faults.append(fault.skipped)
                continue
            record = encode_record(checked.sample)
            tar.write(record)
            digest.update(record)
            entries.append(_entry(checked, record, offset))
            offset += len(record)
            outside += checked.num_points_outside
            empty += checked.num_empty_observers
            num_pixels += len(np.unique(checked.sample.points, axis=0))
            places = (checked.sample.points + 0.5) / checked.density.shape[::-1]
            moments += [places.sum(0), (places**2).sum(0)]
            if task.with_sum:
                density_sum = add_density(density_sum, checked.density)
        end = bytes(TAR_END + -(offset + TAR_END) % tarfile.RECORDSIZE)
        tar.write(end)
        digest.update(end)
    if density_sum is not None:
        content = io.BytesIO()
        np.save(content, density_sum.astype(np.float32), allow_pickle=False)
        store.put(task.file + DENSITY_SUM, content.getvalue())
    contents = ShardContents(
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
        moments=moments.tolist(),
    )
    store.put(task.file + CONTENTS, json.dumps(contents, default=vars).encode())
    return len(task.samples)


def add_density(
    total: NDArray[np.float64] | None, density: NDArray[Any], mass: float = 1
) -> NDArray[np.float64]:
    """Add a density (H, W), scaled to a sum of `mass` and resized, to a total; None starts one."""
    total = np.zeros(density.shape) if total is None else total
    if density.shape != total.shape:
        whole = torch.from_numpy(density.astype(np.float64))[None, None]
        density = maps.resize(whole, (total.shape[0], total.shape[1]))[0, 0].numpy()
    total += density * (mass / density.sum(dtype=np.float64))
    return total


def is_complete(store: Store, sizes: dict[str, int], file: str) -> bool:
    """Whether the shard is whole and has a description; sizes: bytes of the store's files."""
    if file + CONTENTS not in sizes:
        return False
    return ShardContents.read(store, file).shard.num_bytes == sizes.get(file)


def _entry(checked: CheckedSample, record: bytes, offset: int) -> IndexEntry:
    sample = checked.sample
    height, width = checked.density.shape
    known = sample.observers[sample.observers >= 0]
    return IndexEntry(
        key=sample.key,
        shard=0,
        offset=offset,
        length=len(record),
        crc32=zlib.crc32(record),
        num_fixations=len(sample.points),
        height=height,
        width=width,
        num_observers=len(np.unique(known)) if len(known) else None,
        density_cc=checked.density_cc,
        picture_hash=picture_hash(sample.image),
    )
