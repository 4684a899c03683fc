"""How many workers a stage gets, on what, and how many stages train at the same time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import ray
from ray.autoscaler.sdk import request_resources
from ray.train import ScalingConfig

from pipelines.config.options import Compute

SECONDS_TO_FREE = 10
"""How long Ray may take to free what an earlier stage held."""
SECONDS_BETWEEN_RESIZES = 60
"""Seconds between checks for room to grow: a resize restarts from the last checkpoint."""


def has_gpu(choice: bool | None = None) -> bool:
    """Whether to work on GPUs: as chosen, else when the cluster has any.

    Raises ValueError when a GPU is chosen and the cluster has none.
    """
    found = ray.cluster_resources().get("GPU", 0) > 0
    if choice and not found:
        raise ValueError("the cluster has no GPU; drop --use-gpu")
    return found if choice is None else choice


def scaling_config(compute: Compute) -> ScalingConfig:
    """Return the number of workers and what each gets.

    Raises ValueError when the cluster has too little, after `compute.wait` seconds in which an
    autoscaler may add machines.
    """
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    use_gpu = num_gpus > 0 if compute.use_gpu is None else compute.use_gpu
    least, most = compute.worker_range
    if not most:
        least = most = max(1, num_gpus) if use_gpu else 1
    worker = {"CPU": compute.cpus, **({"GPU": 1} if use_gpu else {})}
    if not _wait_for(worker, least, most, compute.wait):
        has = ray.cluster_resources()
        kind, each = next(item for item in worker.items() if least * item[1] > has.get(item[0], 0))
        raise ValueError(
            f"{least} workers want {f'{each} {kind}s' if each > 1 else f'a {kind}'} each, the "
            f"cluster has {has.get(kind, 0):g}; ask for fewer --num-workers, or --wait for "
            "machines that an autoscaler adds"
        )
    return ScalingConfig(
        num_workers=most if least == most else (least, most),
        use_gpu=use_gpu,
        resources_per_worker={"CPU": compute.cpus},
        placement_strategy=compute.placement.upper(),
        elastic_resize_monitor_interval_s=SECONDS_BETWEEN_RESIZES,
    )


def _wait_for(worker: dict[str, int], least: int, most: int, seconds: float) -> bool:
    """Whether the cluster has room for the least number of workers, now or within some seconds.

    worker: the resources of one.  most: workers to ask an autoscaler for.
    """

    def fits() -> bool:
        has = ray.cluster_resources()
        return all(least * number <= has.get(kind, 0) for kind, number in worker.items())

    if fits() or not seconds:
        return fits()
    print(f"waiting at most {seconds} s for {least} workers with {worker} each", flush=True)
    request_resources(bundles=[worker] * most)
    deadline = time.monotonic() + seconds
    while not fits():
        if time.monotonic() >= deadline:
            request_resources(bundles=[])  # Withdraw the request, which never expires.
            return False
        time.sleep(1)
    return True


def wait_until_free(resources: Iterable[str], seconds: float = SECONDS_TO_FREE) -> dict[str, float]:
    """Return what is free, as soon as all of these resources is, else after some seconds."""
    deadline, resources = time.monotonic() + seconds, list(resources)
    while True:
        free: dict[str, float] = ray.available_resources()
        total = ray.cluster_resources()
        held = any(free.get(kind, 0) < total.get(kind, 0) for kind in resources)
        if not held or time.monotonic() >= deadline:
            return free
        time.sleep(0.2)


@dataclass(frozen=True, kw_only=True)
class Concurrency:
    """How many stages train at the same time, with what each, and the reason in words."""

    num_stages: int
    compute: Compute
    reason: str


def plan_concurrency(compute: Compute, num_stages: int) -> Concurrency:
    """Share what is free of the cluster among stages of the same kind.

    On GPUs a stage takes as many as it has workers.  On CPUs a worker uses all cores of its
    machine, so a stage takes whole machines.
    """
    scaling = scaling_config(compute)
    workers = scaling.max_workers
    if scaling.use_gpu:
        kind, cpus = "GPU", compute.cpus
        free = int(wait_until_free(["GPU"]).get("GPU", 0))
    else:
        machines = [int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]]
        kind, cpus = "machine", min(number for number in machines if number)
        free_cpus = int(wait_until_free(["CPU"]).get("CPU", 0))
        free = min(sum(number > 0 for number in machines), free_cpus // cpus)
    at_once = min(num_stages, free // workers)
    takes = f"{workers} {kind}{'s' if workers > 1 else ''} each, {free} free"
    if at_once < 2:
        return Concurrency(num_stages=1, compute=compute, reason=f"in turn ({takes})")
    shared = replace(compute, cpus=max(compute.cpus, cpus))
    reason = f"{at_once} at the same time ({takes})"
    return Concurrency(num_stages=at_once, compute=shared, reason=reason)


def check_batch(batch_size: int, compute: Compute) -> None:
    """Raise ValueError when a batch has too few images for all workers."""
    num_workers = scaling_config(compute).max_workers
    if batch_size < num_workers:
        raise ValueError(
            f"a batch of {batch_size} cannot be shared by {num_workers} workers; choose at least "
            f"{num_workers}"
        )
