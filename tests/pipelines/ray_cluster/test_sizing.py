"""What a cluster has shared for."""

from typing import Any

import pytest
import ray

from pipelines.config.options import Compute
from pipelines.ray_cluster import sizing


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the cluster has: the CPUs and GPUs of each of its machines."""

    def machines(*given: tuple[int, int]) -> None:
        nodes = [{"Alive": True, "Resources": {"CPU": c, "GPU": g}} for c, g in given]
        total = {"CPU": sum(c for c, _ in given), "GPU": sum(g for _, g in given)}
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        monkeypatch.setattr(ray, "cluster_resources", lambda: total)

    return machines


@pytest.mark.parametrize(
    ("machines", "num_workers", "at_once", "cpus"),
    [
        ([(0, 0), (16, 4), (16, 4)], 2, 3, 1),
        ([(16, 4), (16, 4)], 0, 1, 1),
        ([(0, 0), (8, 0), (8, 0)], 0, 2, 8),
        ([(8, 0)], 0, 1, 1),
    ],
    ids=["gpus for all", "each takes all gpus", "a machine each", "one machine"],
)
def test_encoders_train_at_once_where_there_is_room(
    has: Any, machines: list[tuple[int, int]], num_workers: int, at_once: int, cpus: int
) -> None:
    has(*machines)
    found, compute = sizing.plan_concurrency(Compute(num_workers=num_workers), num_stages=3)
    assert (found, compute.cpus) == (at_once, cpus)


def test_a_range_of_workers_begins_with_what_there_is(has: Any) -> None:
    has((16, 4))
    scaled = sizing.scaling_config(Compute(num_workers="2:8", placement="spread"))
    assert (scaled.min_workers, scaled.max_workers, scaled.use_gpu) == (2, 8, True)
    assert scaled.placement_strategy == "SPREAD"
    has((16, 1))
    with pytest.raises(
        ValueError, match=r"2 workers need one GPU each, the cluster has 1; .*--wait"
    ):
        sizing.scaling_config(Compute(num_workers="2:8"))


def test_a_batch_has_an_image_for_each_worker_and_need_not_divide(has: Any) -> None:
    has((16, 8))
    sizing.check_batch(10, Compute(num_workers="2:8"))
    with pytest.raises(ValueError, match="batch of 6 cannot be shared by 8 workers"):
        sizing.check_batch(6, Compute(num_workers="2:8"))


def test_machines_that_did_not_come_in_time_are_no_longer_asked_for(
    has: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    has((2, 0))
    asked: list[Any] = []
    monkeypatch.setattr(sizing, "request_resources", lambda bundles: asked.append(bundles))
    with pytest.raises(ValueError, match="3 workers need one CPU each, the cluster has 2"):
        sizing.scaling_config(Compute(num_workers=3, wait=1))
    assert asked == [[{"CPU": 1}] * 3, []]
