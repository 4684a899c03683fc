"""A raw data set -> shards, a Ray task for each shard: `python -m shards build` on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pipelines.config.options import Cluster
from pipelines.ray_cluster import check_nodes, connection, tasks
from shards.__main__ import Build, say_built
from shards.build.writer import build
from shards.files.manifest import MANIFEST, Manifest
from shards.files.store import location
from shards.layouts.all_layouts import walk


@dataclass(frozen=True, kw_only=True)
class BuildCommand(Build):
    """Pack an eye-tracking data set into shards on a Ray cluster that sees SRC and OUT."""

    num_workers: int = 0
    """Shards written at once; 0: as many as the cluster has room for. Any number writes the same
    bytes."""
    address: str | None = None
    """Ray cluster to join; default: RAY_ADDRESS, else a cluster of this machine only."""


def run(command: BuildCommand) -> None:
    """Build the data set and print what was packed and dropped."""
    command = replace(command, src=command.src.expanduser().absolute())
    connection.connect(Cluster(address=command.address))
    check_nodes.check([command.src], location(command.out))
    say_built(command.build(partial(tasks.each, num_workers=command.num_workers)))


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
    print(f"shards: packing {source}", flush=True)
    build(source, out, map_=tasks.each)
    return out
