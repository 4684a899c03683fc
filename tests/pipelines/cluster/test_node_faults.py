"""Nodes that go and come while workers train on them."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from pipelines.ray_cluster import sizing
from tests.pipelines.cluster.faults import (
    PAIR,
    FaultyJob,
    begun_twice,
    difference,
    last_checkpoint,
    make_job,
    steps,
    training,
    training_of,
    wait_until,
)


def workers_seen(job: FaultyJob) -> list[int]:
    """The numbers of workers that trained, in order, without repetitions."""
    seen: list[int] = []
    for _, _, world_size in steps(job):
        if seen[-1:] != [world_size]:
            seen.append(world_size)
    return seen


def begun_after_checkpoint(job: FaultyJob) -> bool:
    """Whether a step of the second epoch was begun that its last checkpoint does not hold."""
    epoch, step = last_checkpoint(training_of(job))
    return epoch >= 1 and len(steps(job)) > 6 * epoch + step


def test_a_node_that_goes_and_another_that_comes_change_no_bit(
    cluster: Cluster, nodes: list[Any], data: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    job = make_job(data, tmp_path, pause=0.5)
    with training(job, replace(PAIR, placement="spread", max_failures=2)) as content:
        wait_until(lambda: begun_after_checkpoint(job), "no step after a checkpoint")
        cluster.remove_node(nodes[1], allow_graceful=False)
        job.gate.touch()
        cluster.add_node(num_cpus=1)
    assert difference(content.result(), undisturbed) == []
    assert workers_seen(job) == [2]
    # The checkpoint that was on its way may be lost too.
    assert 1 <= begun_twice(job) <= 2 * job.plan.checkpoint_every


def test_elastic_training_goes_on_smaller_and_grows_again(
    cluster: Cluster,
    nodes: list[Any],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    monkeypatch.setattr(sizing, "SECONDS_BETWEEN_RESIZES", 5)
    job = make_job(data, tmp_path, pause=0.5, plan={"epochs": 20})
    with training(job, replace(PAIR, num_workers="1:2", max_failures=2)) as content:
        wait_until(lambda: len(steps(job)) >= 5, "no fifth step")
        cluster.remove_node(nodes[1])
        wait_until(lambda: workers_seen(job) == [2, 1], "it did not go on smaller", 200)
        cluster.add_node(num_cpus=1)
        wait_until(lambda: workers_seen(job) == [2, 1, 2], "it did not grow again", 200)
        job.gate.touch()
    assert [report["epoch"] for report in content.result()["history"]] == list(range(1, 21))
    # The batch stays the same: as many steps an epoch, whoever shares it.
    assert {step for _, step, _ in steps(job)} == set(range(6))


def test_a_node_that_is_about_to_go_leaves_a_checkpoint_behind(
    cluster: Cluster,
    nodes: list[Any],
    data: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    job = make_job(data, tmp_path, pause=2.0, plan={"checkpoint_every": 0, "epochs": 3})
    with training(job, replace(PAIR, placement="spread", max_failures=0)) as content:
        wait_until(lambda: len(steps(job)) >= 8, "no eighth step")
        ray_command = Path(sys.executable).with_name("ray")
        command = [str(ray_command), "drain-node", "--address", cluster.address, "--node-id"]
        command += [nodes[1].node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        command += ["--reason-message", "spot", "--deadline-remaining-seconds", "15"]
        subprocess.run(command, check=True)
        time.sleep(15)  # Before the deadline, losing the node would count as a failure.
        cluster.remove_node(nodes[1])
        job.gate.touch()
        cluster.add_node(num_cpus=1)
    assert [report["epoch"] for report in content.result()["history"]] == [1, 2, 3]
    assert "the node of rank" in "".join(capfd.readouterr())
    begun = [step[:2] for step in steps(job)]
    again = [step for step in set(begun) if begun.count(step) > 1]
    # Without a checkpoint in between, the second epoch would begin anew.
    assert (1, 0) not in again
