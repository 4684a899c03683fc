"""Check a folder of shards: its sizes, or every byte and every picture."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

from shards.build.parallel import Map
from shards.files.codec import decode_pictures, decode_record
from shards.files.manifest import IndexEntry, Manifest, Shard, check_record
from shards.files.store import Store


def verify(folder: Path | str, full: bool = False, map_: Map = map) -> Manifest:
    """Check a folder against its manifest and return the manifest.

    full: also check every checksum, read every sample and decode its pictures.  map_: applies a
    function to each shard, here or elsewhere.
    Raises ValueError for a missing, truncated, changed or surplus file.
    """
    manifest = Manifest.load(folder)
    store = Store(folder)
    known = {shard.file for shard in manifest.shards}
    for name in store.sizes():
        if name.endswith((".tar", ".tmp")) and name not in known:
            raise ValueError(f"{store.place(name)} is not in the manifest; delete it")
    if full:
        if manifest.centre_prior_sha256:
            manifest.centre_prior(folder)
        checks = [
            (shard, [entry for entry in split.samples if entry.shard == position])
            for split in manifest.splits.values()
            for position, shard in enumerate(split.shards)
        ]
        for _ in map_(partial(check_shard, str(folder)), checks):
            pass
    return manifest


def check_shard(folder: str, check: tuple[Shard, list[IndexEntry]]) -> None:
    """Check a whole shard; ValueError naming the shard and, if known, the sample."""
    store, (shard, entries) = Store(folder), check
    place = store.place(shard.file)
    content = store.read(shard.file)
    for entry in entries:
        record = content[entry.offset : entry.offset + entry.length]
        check_record(record, entry, place)
        try:
            decoded = decode_pictures(decode_record(record, entry.key))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        found = {
            "fixations": (len(decoded.points), entry.num_fixations),
            "rows": (decoded.image.shape[0], entry.height),
            "columns": (decoded.image.shape[1], entry.width),
        }
        for what, (here, expected) in found.items():
            if here != expected:
                raise ValueError(
                    f"{place}: sample {entry.key} has {here} {what}, the manifest says {expected}"
                )
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise ValueError(f"{place} has changed: its checksum differs")
