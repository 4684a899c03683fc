"""A raw data set -> shards, a Ray task for each: what `python -m shards build` does here alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from pipelines import tasks, trainer
from pipelines.config import Cluster
from shards.__main__ import Build, say_built


@dataclass(frozen=True, kw_only=True)
class BuildCommand(Build):
    """Packs an eye-tracking data set into shards over a Ray cluster that sees SRC and OUT."""

    num_workers: int = 0
    """Shards written at once; 0: as many as the cluster has room for. Any number writes the same
    bytes."""
    address: str | None = None
    """Ray cluster to join; default: RAY_ADDRESS, else a cluster of this machine alone."""


def run(command: BuildCommand) -> None:
    """Builds the data set and says what was packed and dropped."""
    trainer.connect(Cluster(address=command.address))
    say_built(command.build(partial(tasks.each, num_workers=command.num_workers)))
