"""How many workers a stage gets, and how many stages train at the same time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import ray
from ray.autoscaler.sdk import request_resources
from ray.train import ScalingConfig

from pipelines.config.options import Compute

SECONDS_TO_FREE = 10
"""In which Ray gives back what an earlier stage held."""
SECONDS_BETWEEN_RESIZES = 60
"""Between looks whether there is room for more; a resize goes on from the last checkpoint."""


def scaling(compute: Compute) -> ScalingConfig:
    """Workers and what each gets.

    Raises ValueError when the cluster has too little, after `compute.wait` seconds in which an
    autoscaler may bring it.
    """
    has = ray.cluster_resources()
    use_gpu = has.get("GPU", 0) > 0 if compute.use_gpu is None else compute.use_gpu
    least, most = compute.worker_range
    if not most:
        least = most = max(1, int(has.get("GPU", 0))) if use_gpu else 1
    kinds = ("GPU", "CPU") if use_gpu else ("CPU",)
    each = {kind: compute.cpus if kind == "CPU" else 1 for kind in kinds}
    if not _wait_for(each, least, most, compute.wait):
        for kind in kinds:
            has_now = ray.cluster_resources().get(kind, 0)
            if least * each[kind] > has_now:
                one = f"a {kind}" if each[kind] == 1 else f"{each[kind]} {kind}s"
                raise ValueError(
                    f"{least} workers want {one} each, the cluster has {has_now:g}; ask for "
                    "fewer --num-workers, or --wait for machines that an autoscaler brings"
                )
    return ScalingConfig(
        num_workers=most if least == most else (least, most),
        use_gpu=use_gpu,
        resources_per_worker={"CPU": compute.cpus},
        placement_strategy=compute.placement.upper(),
        elastic_resize_monitor_interval_s=SECONDS_BETWEEN_RESIZES,
    )


def _wait_for(each: dict[str, int], least: int, most: int, seconds: float) -> bool:
    """Whether the cluster has room for the least number of workers, now or within some seconds.

    each: what a worker takes.  most: workers to ask an autoscaler for.
    """
    began, asked = time.monotonic(), False
    while any(ray.cluster_resources().get(kind, 0) < least * n for kind, n in each.items()):
        if time.monotonic() - began >= seconds:
            if asked:
                request_resources(bundles=[])  # Else it would stand for ever.
            return False
        if not asked:
            asked = True
            print(f"waiting at most {seconds} s for {least} workers' {each}", flush=True)
            request_resources(bundles=[each] * most)
        time.sleep(1)
    return True


def when_free(kinds: Iterable[str], seconds: float = SECONDS_TO_FREE) -> dict[str, float]:
    """What the cluster has free when all of these kinds is, or else after some seconds."""
    until, kinds = time.monotonic() + seconds, list(kinds)
    while True:
        free: dict[str, float] = ray.available_resources()
        total = ray.cluster_resources()
        held = any(free.get(kind, 0) < total.get(kind, 0) for kind in kinds)
        if not held or time.monotonic() >= until:
            return free
        time.sleep(0.2)


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many stages train at the same time, with what each, and why, in words."""

    at_once: int
    compute: Compute
    reason: str


def room(compute: Compute, wanted: int) -> Room:
    """Room for stages of the same kind, in what of the cluster is free.

    On GPUs a stage takes as many as it has workers.  On CPUs a worker takes a whole machine, whose
    cores it uses: stages side by side would only share them.
    """
    scaled = scaling(compute)
    workers = scaled.max_workers
    if scaled.use_gpu:
        free = int(when_free(["GPU"]).get("GPU", 0))
        kind, cores = "GPU", compute.cpus
    else:
        machines = [int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]]
        machines = [number for number in machines if number]
        free = min(len(machines), int(when_free(["CPU"]).get("CPU", 0)) // min(machines))
        kind, cores = "machine", min(machines)
    at_once = min(wanted, free // workers)
    takes = f"{workers} {kind}{'s' if workers > 1 else ''} each, {free} free"
    if at_once < 2:
        return Room(at_once=1, compute=compute, reason=f"in turn ({takes})")
    spread = replace(compute, cpus=max(compute.cpus, cores))
    return Room(at_once=at_once, compute=spread, reason=f"{at_once} at the same time ({takes})")


def check_batch(batch_size: int, compute: Compute) -> None:
    """Raises ValueError when a batch has too few images for all workers."""
    num_workers = scaling(compute).max_workers
    if batch_size < num_workers:
        raise ValueError(
            f"a batch of {batch_size} cannot be shared by {num_workers} workers; choose at least "
            f"{num_workers}"
        )
