"""A raw data set -> shards, a Ray task for each shard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emlnet.public_url import public_url
from pipelines.ray_cluster import check_nodes, tasks
from shards.build.writer import build
from shards.files.manifest import MANIFEST, Manifest
from shards.layouts.all_layouts import walk


def fingerprint(source: Path | str) -> str:
    """Return what tells one data set from another, for a folder of shards or a raw one."""
    if isinstance(source, str) or (source / MANIFEST).is_file():
        return Manifest.load(source).digest
    return walk(source).fingerprint


def pack_all(sources: Sequence[Path | str], folder: Path) -> tuple[Path | str, ...]:
    """Return each data set as shards; raw ones are packed into a run's folder."""
    names = ["shards", *(f"shards-{number}" for number in range(2, len(sources) + 1))]
    return tuple(pack(source, folder / name) for source, name in zip(sources, names, strict=True))


def pack(source: Path | str, out: Path) -> Path | str:
    """Return a folder of shards or its URL as it is; pack a raw one into `out`."""
    if isinstance(source, str) or (source / MANIFEST).is_file():
        return source
    check_nodes.check([source], out)
    print(f"shards: packing {public_url(source)}", flush=True)
    build(source, out, map_=tasks.each)
    return out
