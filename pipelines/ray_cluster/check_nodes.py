"""Check that every node of a cluster sees the files of a command, before anything trains."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SECONDS_TO_ANSWER = 180


def check(
    paths: Sequence[Path | str], folder: Path | str | None = None, storage: Path | None = None
) -> None:
    """Raise ValueError if a node of the cluster does not see a path; a single node is not checked.

    paths: read by workers; URLs are not checked.  folder, storage: written by workers (storage:
    checkpoints); all nodes must see a file that is written there.
    """
    if not ray.is_initialized():
        return
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    written = [path for path in (folder, storage) if isinstance(path, Path)]
    probes = [path / f".probe-{uuid.uuid4().hex}" for path in written]
    for probe in probes:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
    wanted = [str(path) for path in [*paths, *probes] if isinstance(path, Path)]
    task = ray.remote(find_missing)
    answers = [
        task.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(wanted)
        for node in nodes
    ]
    try:
        missing = ray.get(answers, timeout=SECONDS_TO_ANSWER)
    except ray.exceptions.GetTimeoutError:
        raise ValueError(
            f"a node of the cluster started no process within {SECONDS_TO_ANSWER} s; see its logs "
            "in /tmp/ray/session_latest/logs on that node"
        ) from None
    finally:
        for probe in probes:
            probe.unlink()
    for node, unseen in zip(nodes.values(), missing, strict=True):
        if unseen:
            raise ValueError(describe_missing(node, unseen, list(map(str, probes))))


def find_missing(paths: Sequence[str]) -> list[str]:
    """Return the paths that do not exist on this node."""
    return [path for path in paths if not Path(path).exists()]


def describe_missing(node: str, paths: Sequence[str], probes: Sequence[str]) -> str:
    """Return the error for paths that a node does not see.  If one is a probe, the error names it.

    probes: files that this process wrote.
    """
    for path in set(paths).intersection(probes):
        return (
            f"a file that this process wrote into {Path(path).parent} is not seen on the node "
            f"{node}: it is a local folder; name one that all nodes share (OUT, --out, --readouts, "
            "--storage)"
        )
    return f"{paths[0]} is not seen on the node {node}; put it where all nodes mount it"
