"""A job, Ray Train around it, and what comes out: the state of its last checkpoint."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer

from emlnet import checkpoint
from emlnet.finite import DivergedError
from pipelines import worker
from pipelines.bell import StoppedError, handle_termination, hang, listening
from pipelines.config import Cluster, Compute, digest
from pipelines.saving import refusal
from pipelines.watch import collective_timeout

# Freed memory stays with the process, in one arena (training runs in a thread, whose own arena
# would give large blocks back): page faults cost a CPU worker up to half of its time.  Blocks of
# more than 32 MiB do go back: kept, they leave gaps that cost a third more memory.  They come
# again in huge pages, of which a large model's step takes a fortieth as many.
WORKER_ENV = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(10**11),
}
TRACE = "trace.json.gz"
"""A trace of training steps, in the stage's own folder."""
RAY_ENV = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
}

SECONDS_TO_FREE = 10
"""In which Ray gives back what an earlier stage held."""
SECONDS_TO_START_SMALLER = "30"
"""After which a range of workers that lost a machine does with fewer."""
SECONDS_BETWEEN_RESIZES = 60
"""Between looks whether there is room for more; a resize goes on from the last checkpoint."""


def connect(
    compute: Cluster, *, include_dashboard: bool = False, log_to_driver: bool = True
) -> None:
    """Joins the Ray cluster that the config names, or starts one on this machine.

    include_dashboard: of a cluster that is started; Ray Train frees the workers of a run that was
    killed only where there is one.  log_to_driver: print what workers print.
    """
    if ray.is_initialized():
        return
    for name, value in RAY_ENV.items():
        os.environ.setdefault(name, value)
    address = compute.address or os.environ.get("RAY_ADDRESS") or "local"
    more = {"include_dashboard": include_dashboard} if address == "local" else {}
    try:
        ray.init(
            address=address,
            logging_level=logging.WARNING,
            log_to_driver=log_to_driver,
            # Each second a warning that a dashboard, which nobody asked for, is not there.
            logging_config=ray.LoggingConfig(encoding="TEXT", log_level="ERROR"),
            **more,
        )
    except ConnectionError as error:
        raise ValueError(f"no Ray cluster answers at {address}: {error}") from error
    handle_termination()


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


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Leaves Ctrl-C to the command.  Ray ends workers without a checkpoint, and says nothing."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def train(
    job: worker.Job,
    storage: Path,
    compute: Compute,
    callbacks: Sequence[UserCallback] = (),
    start_failures: int = -1,
) -> dict[str, Any]:
    """Trains a job and returns its last checkpoint's content (emlnet.checkpoint).

    storage: the stage's own folder, absolute; called again with it, training goes on from the last
    checkpoint, which lies there unless `compute.storage` says otherwise.
    start_failures: how often workers that found no room are waited for again; -1 without end.
    Raises ValueError when an input is refused, DivergedError when the loss is no longer finite,
    StoppedError when the command was asked to end, RuntimeError when workers failed more often than
    allowed.
    """
    check_batch(job.plan.batch_size, compute)
    scaled = scaling(compute)
    if scaled.min_workers < scaled.max_workers:
        job = shared_by(job, scaled.max_workers)
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", SECONDS_TO_START_SMALLER)
    bell = hang()
    trainer = _Trainer(
        worker.run,
        train_loop_config={
            "job": job,
            "compute": compute,
            "bell": bell,
            "trace": storage / TRACE if compute.profile else None,
        },
        torch_config=TorchConfig(
            backend="nccl" if scaled.use_gpu else "gloo",
            timeout_s=collective_timeout(compute.timeout),
        ),
        scaling_config=scaled,
        run_config=RunConfig(
            name=storage.name,
            storage_path=checkpoints_of(storage, compute),
            failure_config=FailureConfig(
                max_failures=compute.max_failures, controller_failure_limit=start_failures
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=list(callbacks),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": WORKER_ENV},
        ),
    )
    try:
        with listening(bell):
            result = trainer.fit()
    except TrainingFailedError as error:
        _, reason = ray.get(bell.look.remote())
        cause = error.controller_failure if isinstance(error, ControllerError) else None
        if isinstance(cause, OSError):  # Its own record of the checkpoints.
            reason = reason or refusal(checkpoints_of(storage, compute), cause)
        if reason:
            raise ValueError(f"{job.title}: {reason}") from error
        raise RuntimeError(f"{job.title}: training failed: {error}") from error
    outcome: worker.Outcome = result.return_value
    if outcome.kind == "diverged":
        raise DivergedError(f"{job.title}: {outcome.reason}")
    if outcome.kind == "refused":
        raise ValueError(f"{job.title}: {outcome.reason}")
    if outcome.kind == "stopped":
        raise StoppedError(f"{job.title}: stopped as asked; the same command goes on from there")
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        return checkpoint.read(Path(folder))


def checkpoints_of(storage: Path, compute: Compute) -> str:
    """The folder or URL under which a stage's checkpoints lie, in a folder of the stage's name.

    storage: the stage's own folder, which makes the name where many runs share a place.
    """
    if compute.storage is None:
        return str(storage.parent)
    run, stage = storage.parent.parent.name, storage.parent.name
    root = str(compute.storage_folder or compute.storage).rstrip("/")
    return f"{root}/{run}-{digest(folder=str(storage.parent.parent))[:8]}/{stage}"


def shared_by(job: worker.Job, most: int) -> worker.Job:
    """The job with parts so small that fewer workers than `most` need no more memory each."""
    plan = job.plan
    part = -(-plan.batch_size // most)
    if not plan.micro_batch or plan.micro_batch > part:
        job = replace(job, plan=replace(plan, micro_batch=part))  # type: ignore[type-var]
    return job
