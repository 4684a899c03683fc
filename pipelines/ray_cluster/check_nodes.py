"""Whether every node of a cluster has and sees what a command wants, before anything trains."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import ray
from packaging.requirements import Requirement
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.ray_cluster import preflight

SECONDS_TO_ANSWER = 180


def check(
    paths: Sequence[Path | str], folder: Path | str | None = None, storage: Path | None = None
) -> None:
    """Raises ValueError when a node lacks a package, or does not see a path or folder.

    paths: what workers read; URLs are not looked at.  folder: what they write to, and storage: that
    of checkpoints, when it is another; a file put there must be seen everywhere.  A cluster of
    one node is this machine.
    """
    if not ray.is_initialized():
        return  # No cluster was joined.
    local = [path for path in paths if isinstance(path, Path)]
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    written = [each for each in (folder, storage) if isinstance(each, Path)]
    probes = [each / f".probe-{uuid.uuid4().hex}" for each in written]
    for probe in probes:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
    wanted = [str(requirement) for requirement in preflight.wanted()]
    try:
        looks = [
            ray.remote(look)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, False))
            .remote([str(path) for path in [*local, *probes]], wanted)
            for node in nodes
        ]
        answers = ray.get(looks, timeout=SECONDS_TO_ANSWER)
    except ray.exceptions.GetTimeoutError:
        raise ValueError(
            f"a node of the cluster started no process within {SECONDS_TO_ANSWER} s; its logs "
            "are in /tmp/ray/session_latest/logs there"
        ) from None
    finally:
        for probe in probes:
            probe.unlink()
    problem = judge(dict(zip(nodes.values(), answers, strict=True)), probes)
    if problem:
        raise ValueError(problem)


def look(paths: list[str], wanted: list[str]) -> tuple[list[str], list[str]]:
    """On a node: the paths that it does not see, and the packages that it lacks."""
    unseen = [path for path in paths if not Path(path).exists()]
    return unseen, preflight.missing([Requirement(text) for text in wanted])


def judge(answers: dict[str, tuple[list[str], list[str]]], probes: Sequence[Path]) -> str:
    """What is wrong, in a sentence; empty when nothing is.

    answers: what each node, by its address, does not see and lacks.  probes: the files that
    this process wrote.
    """
    lacking = {node: packages for node, (_, packages) in answers.items() if packages}
    if lacking:
        node, packages = next(iter(lacking.items()))
        return (
            f"{len(lacking)} of {len(answers)} nodes lack packages (first: {node}, "
            f"{', '.join(packages)}); build their image from deploy/Dockerfile"
        )
    unseen = {node: paths for node, (paths, _) in answers.items() if paths}
    if not unseen:
        return ""
    node, paths = next(iter(unseen.items()))
    where = f"{len(unseen)} of {len(answers)} nodes (first: {node})"
    for probe in probes:
        if str(probe) in paths:
            return (
                f"a file that this process wrote into {probe.parent} is not seen on {where}: it is "
                "a local folder; name one that all nodes share (OUT, --out, --readouts, --storage)"
            )
    return f"{paths[0]} is not seen on {where}; put it where all nodes mount it"
