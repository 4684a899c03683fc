"""A job, Ray Train around it, and what comes out: the state of its last checkpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.train import (
    CheckpointConfig,
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
from pipelines.config import Cluster, Compute

# Freed memory stays with the process, in one arena (training runs in a thread, whose own arena
# would give large blocks back): page faults cost a CPU worker up to half of its time.
WORKER_ENV = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
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
    "RAY_DEDUP_LOGS": "0",
}


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


def scaling(compute: Compute) -> ScalingConfig:
    """Workers and what each gets.  Raises ValueError when the cluster has too little."""
    has = ray.cluster_resources()
    num_gpus, num_cpus = int(has.get("GPU", 0)), has.get("CPU", 0)
    use_gpu = num_gpus > 0 if compute.use_gpu is None else compute.use_gpu
    num_workers = compute.num_workers or (max(1, num_gpus) if use_gpu else 1)
    if use_gpu and num_workers > num_gpus:
        raise ValueError(f"{num_workers} workers want a GPU each, the cluster has {num_gpus}")
    if num_workers > num_cpus:
        raise ValueError(f"{num_workers} workers want a CPU each, the cluster has {num_cpus:g}")
    return ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": 1})


def check_batch(batch_size: int, num_workers: int) -> None:
    """Raises ValueError when the workers cannot share a batch equally."""
    if batch_size % num_workers:
        raise ValueError(
            f"a batch of {batch_size} cannot be shared equally by {num_workers} workers; "
            f"choose a multiple of {num_workers}"
        )


def train(
    job: worker.Job,
    storage: Path,
    compute: Compute,
    callbacks: Sequence[UserCallback] = (),
    start_failures: int = -1,
) -> dict[str, Any]:
    """Trains a job and returns its last checkpoint's content (emlnet.checkpoint).

    storage: the stage's own folder, absolute; called again with it, training goes on from the last
    checkpoint.  start_failures: how often workers that found no room are waited for again; -1
    without end.  Raises ValueError when the batch cannot be shared, DivergedError when the loss is
    no longer finite, RuntimeError when workers failed more often than allowed.
    """
    scaled = scaling(compute)
    num_workers = scaled.num_workers
    check_batch(job.plan.batch_size, num_workers)
    trainer = TorchTrainer(
        worker.run,
        train_loop_config={
            "job": job,
            "threads": compute.threads,
            "compile": compute.compile,
            "trace": storage / TRACE if compute.profile else None,
        },
        torch_config=TorchConfig(
            backend="nccl" if scaled.use_gpu else "gloo", timeout_s=compute.timeout
        ),
        scaling_config=scaled,
        run_config=RunConfig(
            name=storage.name,
            storage_path=str(storage.parent),
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
        result = trainer.fit()
    except TrainingFailedError as error:
        raise RuntimeError(f"{job.title}: training failed: {error}") from error
    if result.return_value:
        raise DivergedError(f"{job.title}: {result.return_value}")
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        return checkpoint.read(Path(folder))
