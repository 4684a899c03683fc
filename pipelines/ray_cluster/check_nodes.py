"""Check that every node of a cluster sees the files of a command, before anything trains."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SECONDS_TO_ANSWER = 180


def check(
    paths: Sequence[Path | str], folder: Path | str | None = None, storage: Path | None = None
) -> None:
    """Raise ValueError when a node does not see a path or a folder.

    paths: what workers read; URLs are not checked.  folder: where they write, and storage: where
    checkpoints go, when it is another; a file put there must be seen everywhere.  A cluster of
    one node is this machine.
    """
    if not ray.is_initialized():
        return  # No cluster was joined.
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    local = [path for path in paths if isinstance(path, Path)]
    written = [each for each in (folder, storage) if isinstance(each, Path)]
    probes = [each / f".probe-{uuid.uuid4().hex}" for each in written]
    for probe in probes:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
    try:
        answers = [
            ray.remote(find_missing)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, False))
            .remote([str(path) for path in [*local, *probes]])
            for node in nodes
        ]
        missing = dict(
            zip(nodes.values(), ray.get(answers, timeout=SECONDS_TO_ANSWER), strict=True)
        )
    except ray.exceptions.GetTimeoutError:
        raise ValueError(
            f"a node of the cluster started no process within {SECONDS_TO_ANSWER} s; its logs "
            "are in /tmp/ray/session_latest/logs there"
        ) from None
    finally:
        for probe in probes:
            probe.unlink()
    if problem := describe_missing(missing, probes):
        raise ValueError(problem)


def find_missing(paths: Sequence[str]) -> list[str]:
    """Return the paths that do not exist on this node."""
    return [path for path in paths if not Path(path).exists()]


def describe_missing(missing: Mapping[str, Sequence[str]], probes: Sequence[Path]) -> str:
    """Say in a sentence what is missing; empty when nothing is.

    missing: the paths that each node, by its address, does not see.  probes: the files that
    this process wrote.
    """
    lacking = {node: paths for node, paths in missing.items() if paths}
    if not lacking:
        return ""
    node, paths = next(iter(lacking.items()))
    where = f"{len(lacking)} of {len(missing)} nodes (first: {node})"
    for probe in probes:
        if str(probe) in paths:
            return (
                f"a file that this process wrote into {probe.parent} is not seen on {where}: it is "
                "a local folder; name one that all nodes share (OUT, --out, --readouts, --storage)"
            )
    return f"{paths[0]} is not seen on {where}; put it where all nodes mount it"
