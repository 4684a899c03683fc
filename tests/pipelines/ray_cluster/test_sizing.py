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
        monkeypatch.setattr(ray, "available_resources", lambda: total)

    return machines


def test_encoders_share_gpus_when_each_takes_some(has: Any) -> None:
    has((0, 0), (16, 4), (16, 4))
    shared = sizing.plan_concurrency(Compute(num_workers=2), num_stages=3)
    assert (shared.num_stages, shared.compute.cpus) == (3, 1)
    assert shared.reason == "3 at the same time (2 GPUs each, 8 free)"


def test_an_encoder_that_takes_all_gpus_is_trained_in_turn(has: Any) -> None:
    has((16, 4), (16, 4))
    shared = sizing.plan_concurrency(Compute(), num_stages=3)
    assert (shared.num_stages, shared.reason) == (1, "in turn (8 GPUs each, 8 free)")


def test_on_cpus_an_encoder_takes_a_machine(has: Any) -> None:
    has((0, 0), (8, 0), (8, 0))
    shared = sizing.plan_concurrency(Compute(), num_stages=3)
    assert (shared.num_stages, shared.compute.cpus) == (2, 8)
    has((8, 0))
    assert sizing.plan_concurrency(Compute(), num_stages=3).num_stages == 1


@pytest.mark.parametrize(
    ("seconds", "found"), [(60, {"CPU": 4.0}), (0, {"memory": 1.0})], ids=["freed", "in use"]
)
def test_what_an_earlier_stage_holds_is_waited_for(
    seconds: float, found: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([{"memory": 1.0}, {"CPU": 3.0}, {"CPU": 4.0}])
    monkeypatch.setattr(ray, "available_resources", lambda: next(looks))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "memory": 2.0})
    assert sizing.wait_until_free(["CPU"], seconds) == found


def test_a_range_of_workers_begins_with_what_there_is(has: Any) -> None:
    has((16, 4))
    scaled = sizing.scaling_config(Compute(num_workers="2:8", placement="spread"))
    assert (scaled.min_workers, scaled.max_workers, scaled.use_gpu) == (2, 8, True)
    assert scaled.placement_strategy == "SPREAD"
    has((16, 1))
    with pytest.raises(ValueError, match=r"2 workers want a GPU each, the cluster has 1; .*--wait"):
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
    with pytest.raises(ValueError, match="3 workers want a CPU each, the cluster has 2"):
        sizing.scaling_config(Compute(num_workers=3, wait=1))
    assert asked == [[{"CPU": 1}] * 3, []]
