"""The number of workers of a stage, their resources, and how many stages train at once."""

from __future__ import annotations

import time
from dataclasses import replace

import ray
from ray.autoscaler.sdk import request_resources
from ray.train import ScalingConfig

from pipelines.config.options import Compute

SECONDS_BETWEEN_RESIZES = 60
"""Seconds between checks for room to grow: a resize restarts from the last checkpoint."""


def has_gpu(choice: bool | None = None) -> bool:
    """Whether to use GPUs: as `choice` says; if it is None, whether the cluster has any.

    Raises ValueError if GPUs are chosen and the cluster has none.
    """
    found = ray.cluster_resources().get("GPU", 0) > 0
    if choice and not found:
        raise ValueError("the cluster has no GPU; drop --use-gpu")
    return found if choice is None else choice


def scaling_config(compute: Compute) -> ScalingConfig:
    """Return the number of workers and the resources of each.

    Raises ValueError if the cluster is still too small after `compute.wait` seconds, in which an
    autoscaler may add machines.
    """
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    use_gpu = num_gpus > 0 if compute.use_gpu is None else compute.use_gpu
    min_workers, max_workers = compute.worker_range
    if not max_workers:
        min_workers = max_workers = max(1, num_gpus) if use_gpu else 1
    worker = {"CPU": compute.cpus, **({"GPU": 1} if use_gpu else {})}
    if kind := _wait_for(worker, min_workers, max_workers, compute.wait):
        number = worker[kind]
        raise ValueError(
            f"{min_workers} workers need {f'{number} {kind}s' if number > 1 else f'one {kind}'} "
            f"each, the cluster has {ray.cluster_resources().get(kind, 0):g}; set fewer "
            "--num-workers, or --wait for machines that an autoscaler may add"
        )
    return ScalingConfig(
        num_workers=max_workers if min_workers == max_workers else (min_workers, max_workers),
        use_gpu=use_gpu,
        resources_per_worker={"CPU": compute.cpus},
        placement_strategy=compute.placement.upper(),
        elastic_resize_monitor_interval_s=SECONDS_BETWEEN_RESIZES,
    )


def _wait_for(
    worker: dict[str, int], min_workers: int, max_workers: int, seconds: float
) -> str | None:
    """Wait for the resources of `min_workers`; return a resource that is still too small, or None.

    worker: resources of one worker.  max_workers: workers to request from an autoscaler.
    """

    def missing() -> str | None:
        has = ray.cluster_resources()
        short = (kind for kind, number in worker.items() if has.get(kind, 0) < min_workers * number)
        return next(short, None)

    if not seconds or not missing():
        return missing()
    print(f"waiting at most {seconds} s for {min_workers} workers with {worker} each", flush=True)
    request_resources(bundles=[worker] * max_workers)
    deadline = time.monotonic() + seconds
    while missing() and time.monotonic() < deadline:
        time.sleep(1)
    if missing():
        request_resources(bundles=[])  # Withdraw the request, which never expires.
    return missing()


def plan_concurrency(compute: Compute, num_stages: int) -> tuple[int, Compute]:
    """Return how many equal stages fit the cluster at once, and the options of each.

    A GPU stage takes one GPU per worker.  A CPU worker uses all cores of its machine, so a CPU
    stage takes whole machines.
    """
    scaling = scaling_config(compute)
    if scaling.use_gpu:
        room = int(ray.cluster_resources()["GPU"])
    else:
        machines = [int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]]
        machines = [cpus for cpus in machines if cpus]
        room = len(machines)
    at_once = max(1, min(num_stages, room // scaling.max_workers))
    if at_once > 1 and not scaling.use_gpu:
        compute = replace(compute, cpus=max(compute.cpus, min(machines)))
    return at_once, compute


def check_batch(batch_size: int, compute: Compute) -> None:
    """Raise ValueError if a batch has fewer images than there are workers."""
    num_workers = scaling_config(compute).max_workers
    if batch_size < num_workers:
        raise ValueError(
            f"a batch of {batch_size} cannot be shared by {num_workers} workers; set --batch-size "
            f"to at least {num_workers}"
        )
