"""`python -m pipelines promote | rollback`: change the registry's aliases by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from emlnet.registry import mlflow_registry
from pipelines.config.options import ClusterOptions, StoreOptions
from pipelines.ray_cluster import check_nodes, connection
from pipelines.registry import aliases, promotion
from pipelines.tracking.mlflow_runs import Tracker
from shards.files.store import location
from shards.read.reader import ShardReader


@dataclass(frozen=True, kw_only=True)
class PromoteCommand:
    """Give a registered version an alias if it beats the version that holds it, image by image."""

    version: Positional[int]
    """Version in the registry."""
    data: Path | None = None
    """Folder of shards on which both are compared."""
    split: str = "val"
    """Split to compare on."""
    flip: bool = True
    """Compare maps averaged with those of the mirrored pictures."""
    alias: str = mlflow_registry.CHAMPION
    """Alias to give."""
    force: str | None = None
    """Reason to give the alias without a comparison; kept in the alias's history."""
    compute: OmitArgPrefixes[ClusterOptions] = field(default_factory=ClusterOptions)
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        if (self.data is None) == (self.force is None):
            raise ValueError("name --data to compare on, or --force with a reason")


@dataclass(frozen=True, kw_only=True)
class RollbackCommand:
    """Give an alias back to the version that held it before."""

    reason: str = "by hand"
    """Reason, kept in the alias's history."""
    alias: str = mlflow_registry.CHAMPION
    """Alias to give back."""
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)


def promote(command: PromoteCommand) -> int:
    """Promote a version, or print why not; return 1 if it was not promoted."""
    tracker = Tracker(uri=command.tracking.uri)
    client, version = tracker.client, str(command.version)
    found = mlflow_registry.find_version(client, version=command.version)
    if command.data is None:
        past = aliases.history(client, command.alias)
        if not past or past[-1]["version"] != version:
            aliases.set_alias(client, command.alias, version, f"by hand: {command.force}", past)
    else:
        reader = ShardReader(location(command.data), command.split)
        connection.connect(command.compute)
        check_nodes.check([reader.folder])
        scores = promotion.scores_of(found, reader, command.flip, tracker)
        decision = promotion.promote(command.alias, version, scores, reader, command.flip, tracker)
        if not decision.promoted:
            print(f"version {version} was not promoted: {decision.reason}")
            return 1
    print(aliases.describe(client, command.alias))
    return 0


def rollback(command: RollbackCommand) -> None:
    """Roll an alias back.  Raises ValueError if no version held it before."""
    client = Tracker(uri=command.tracking.uri).client
    past = aliases.history(client, command.alias)
    if len(past) < 2:
        first = f"version {past[0]['version']} is the first that" if past else "no version"
        raise ValueError(f"{first} has the alias {command.alias!r}; give it with `promote`")
    *kept, before, held = past
    mlflow_registry.find_version(client, version=int(before["version"]))
    reason = f"rolled back from version {held['version']}: {command.reason}"
    aliases.set_alias(client, command.alias, before["version"], reason, kept)
    print(aliases.describe(client, command.alias))
