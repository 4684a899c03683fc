"""Nodes that go and come while workers train on them."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from pipelines.config.options import Compute
from pipelines.ray_cluster import connection, sizing
from pipelines.ray_train import trainer
from tests.pipelines.cluster.faults import (
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


def connect(cluster: Cluster, compute: Compute) -> None:
    cluster.wait_for_nodes()
    ray.shutdown()
    connection.connect(compute)


def leaving(nodes: list[Any]) -> tuple[Any, str]:
    """One of two nodes on which this process is not, and its id: of nodes with one address Ray
    gives a driver any.
    """
    ids = {node["RayletSocketName"]: node["NodeID"] for node in ray.nodes()}
    mine = ray.get_runtime_context().get_node_id()
    node = next(node for node in reversed(nodes) if ids[node.raylet_socket_name] != mine)
    return node, ids[node.raylet_socket_name]


def test_a_node_that_goes_and_another_that_comes_change_no_bit(
    cluster: Cluster, data: Path, tmp_path: Path
) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    compute = Compute(
        num_workers=2, address=cluster.address, placement="spread", max_failures=2, threads=1
    )
    connect(cluster, compute)
    whole = make_job(data, tmp_path / "whole")
    expected = trainer.train(whole, tmp_path / "whole" / "training", compute)
    job = make_job(data, tmp_path / "broken", pause=0.5)
    node, _ = leaving(nodes)
    with training(job, compute) as content:
        wait_until(lambda: begun_after_checkpoint(job), "no step after a checkpoint")
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1)
    assert difference(content.result(), expected) == []
    assert workers_seen(job) == [2]
    # The checkpoint that was on its way may be lost too.
    assert 1 <= begun_twice(job) <= 2 * job.plan.checkpoint_every


def test_elastic_training_goes_on_smaller_and_grows_again(
    cluster: Cluster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    monkeypatch.setattr(sizing, "SECONDS_BETWEEN_RESIZES", 5)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    compute = Compute(num_workers="1:2", address=cluster.address, max_failures=2, threads=1)
    connect(cluster, compute)
    job = make_job(data, tmp_path, pause=0.5, plan={"epochs": 14})
    node, _ = leaving(nodes)
    with training(job, compute) as content:
        wait_until(lambda: len(steps(job)) >= 5, "no fifth step")
        cluster.remove_node(node)
        wait_until(lambda: workers_seen(job) == [2, 1], "it did not go on smaller", 200)
        cluster.add_node(num_cpus=1)
    assert workers_seen(job) == [2, 1, 2]
    assert [report["epoch"] for report in content.result()["history"]] == list(range(1, 15))
    # The batch stays the same: as many steps an epoch, whoever shares it.
    assert {step for _, step, _ in steps(job)} == set(range(6))


def test_a_node_that_is_about_to_go_leaves_a_checkpoint_behind(
    cluster: Cluster, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    compute = Compute(
        num_workers=2, address=cluster.address, placement="spread", max_failures=0, threads=1
    )
    connect(cluster, compute)
    job = make_job(data, tmp_path, pause=2.0, plan={"checkpoint_every": 0, "epochs": 3})
    node, node_id = leaving(nodes)
    with training(job, compute) as content:
        wait_until(lambda: len(steps(job)) >= 8, "no eighth step")
        ray_command = Path(sys.executable).with_name("ray")
        command = [str(ray_command), "drain-node", "--address", cluster.address, "--node-id"]
        command += [node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        command += ["--reason-message", "spot", "--deadline-remaining-seconds", "15"]
        subprocess.run(command, check=True)
        time.sleep(15)
        cluster.remove_node(node)
        cluster.add_node(num_cpus=1)
    assert [report["epoch"] for report in content.result()["history"]] == [1, 2, 3]
    assert "a node with rank" in "".join(capfd.readouterr())
    begun = [step[:2] for step in steps(job)]
    again = [step for step in set(begun) if begun.count(step) > 1]
    # Without a checkpoint in between, the second epoch would begin anew.
    assert (1, 0) not in again
