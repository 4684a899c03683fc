"""Train a job with Ray Train."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)

from emlnet.training import checkpoint
from pipelines.config.identity import digest
from pipelines.config.options import Compute
from pipelines.ray_cluster.connection import WORKER_ENV
from pipelines.ray_cluster.sizing import check_batch, scaling_config
from pipelines.ray_cluster.stop_signal import StopSignal, forward_signals
from pipelines.ray_train import worker
from pipelines.ray_train.checkpoint_files import describe_refusal, drop_broken_list, find_newest
from pipelines.ray_train.training_job import TrainingJob

TRACE = "trace.json.gz"
"""A trace of training steps, in the stage's own folder."""
SECONDS_TO_START_SMALLER = "30"
"""Time that an elastic group waits to replace a lost machine before it shrinks."""
COLLECTIVE_GRACE = 60
"""Seconds added to the timeout of collectives, so that the watchdog ends a hung rank first."""


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray's trainer without its Ctrl-C handler; in a command, also without its trial cleaner."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C to the command: Ray would end the workers without a checkpoint."""

    def _create_default_callbacks(self) -> list[Any]:
        """Drop the callback that frees the workers of a stopped trial, except in a trial.

        It needs a dashboard.  A command has none, and its end frees all workers.
        """
        callbacks = super()._create_default_callbacks()
        if ray.get_runtime_context().get_actor_id():
            return list(callbacks)  # This process is a trial.
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


def train(
    job: TrainingJob,
    storage: Path,
    compute: Compute,
    callbacks: Sequence[UserCallback] = (),
    start_failures: int = -1,
) -> dict[str, Any]:
    """Train a job and return its last checkpoint's content (emlnet.training.checkpoint).

    storage: the stage's folder, absolute.  Training resumes from its last checkpoint.  With
    `compute.storage` the checkpoints lie there instead.
    start_failures: how often to wait again if Ray cannot place the workers; -1: without limit.
    Raises ValueError for a refused input, DivergedError for a loss that is not finite, StoppedError
    after a stop request, RuntimeError if workers fail more often than allowed.
    """
    check_batch(job.plan.batch_size, compute)
    scaling = scaling_config(compute)
    if scaling.min_workers < scaling.max_workers:
        job = limit_micro_batch(job, scaling.max_workers)
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", SECONDS_TO_START_SMALLER)
    root = checkpoint_storage(storage, compute)
    checkpoints = None if "://" in root else Path(root) / storage.name
    if checkpoints:  # A bucket replaces files atomically, a folder may not.
        drop_broken_list(checkpoints)
    stop_signal = StopSignal()
    config = worker.WorkerConfig(
        job=job,
        compute=compute,
        stop_signal=stop_signal,
        checkpoints=checkpoints,
        trace=storage / TRACE if compute.profile else None,
    )
    trainer = _Trainer(
        worker.run,
        train_loop_config={"config": config},
        torch_config=TorchConfig(
            backend="nccl" if scaling.use_gpu else "gloo",
            timeout_s=compute.timeout + COLLECTIVE_GRACE,
        ),
        scaling_config=scaling,
        run_config=RunConfig(
            name=storage.name,
            storage_path=root,
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
        with forward_signals(stop_signal):
            result = trainer.fit()
    except TrainingFailedError as error:
        reason = stop_signal.reason()
        cause = error.controller_failure if isinstance(error, ControllerError) else None
        if isinstance(cause, OSError):  # Ray's own list of checkpoints could not be written.
            reason = reason or describe_refusal(root, cause)
        if reason:
            raise ValueError(f"{job.title}: {reason}") from error
        raise RuntimeError(f"{job.title}: training failed: {error}") from error
    if result.return_value is not None:
        raise result.return_value
    last = result.checkpoint or (find_newest(checkpoints) if checkpoints else None)
    assert last is not None
    with last.as_directory() as folder:
        return checkpoint.read(Path(folder))


def checkpoint_storage(storage: Path, compute: Compute) -> str:
    """Return the folder or URL under which Ray Train makes the folder of checkpoints.

    storage: the local folder of a stage; in a shared storage its path names a folder of its own.
    """
    if compute.storage is None:
        return str(storage.parent)
    run, stage = storage.parent.parent.name, storage.parent.name
    root = str(compute.storage_folder or compute.storage).rstrip("/")
    return f"{root}/{run}-{digest(folder=str(storage.parent.parent))[:8]}/{stage}"


def limit_micro_batch(job: TrainingJob, max_workers: int) -> TrainingJob:
    """Limit micro-batches to a worker's share of a batch when all workers are there.

    Fewer workers then pass more micro-batches and need no more memory.
    """
    plan = job.plan
    share = -(-plan.batch_size // max_workers)
    if not plan.micro_batch or plan.micro_batch > share:
        job = replace(job, plan=replace(plan, micro_batch=share))
    return job
