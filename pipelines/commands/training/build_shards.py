"""`python -m pipelines build`: pack a data set into shards by Ray tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from pipelines.config.options import ClusterOptions
from pipelines.ray_cluster import check_nodes, connection, tasks
from shards.files.store import location
from shards.shard_commands import BuildShards, print_built


@dataclass(frozen=True, kw_only=True)
class BuildCommand(BuildShards):
    """Pack an eye-tracking data set into shards on a Ray cluster that sees SRC and OUT."""

    num_workers: int = 0
    """Shards written at once; 0: as many as the cluster has room for. Any number writes the same
    bytes."""
    address: str | None = None
    """Ray cluster to join; default: RAY_ADDRESS, else a cluster of this machine only."""


def run(command: BuildCommand) -> None:
    """Build the data set and print what was packed and dropped."""
    command = replace(command, src=command.src.expanduser().absolute())
    connection.connect(ClusterOptions(address=command.address))
    check_nodes.check([command.src], location(command.out))
    print_built(command.build(partial(tasks.map_unordered, num_workers=command.num_workers)))
