"""A job, Ray Train around it, and what comes out: the state of its last checkpoint."""

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
from emlnet.training.divergence import DivergedError
from pipelines.config.identity import digest
from pipelines.config.options import Compute
from pipelines.ray_cluster.connection import WORKER_ENV
from pipelines.ray_cluster.sizing import check_batch, scaling_config
from pipelines.ray_cluster.stop_signal import StoppedError, StopSignal, forward_signals
from pipelines.ray_train import worker
from pipelines.ray_train.checkpoint_upload import refusal
from pipelines.ray_train.hang_watchdog import collective_timeout

TRACE = "trace.json.gz"
"""A trace of training steps, in the stage's own folder."""
SECONDS_TO_START_SMALLER = "30"
"""After which a range of workers that lost a machine does with fewer."""


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray's trainer without two of its habits."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C to the command: Ray would end the workers without a checkpoint."""

    def _create_default_callbacks(self) -> list[Any]:
        """Leave out the process that frees the workers of a trial when Ray Tune stops it.

        It asks a dashboard whether the run lives.  A command has none, and its end frees all.
        """
        callbacks = super()._create_default_callbacks()
        if ray.get_runtime_context().get_actor_id():
            return list(callbacks)  # This process is a trial.
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


def train(
    job: worker.Job,
    storage: Path,
    compute: Compute,
    callbacks: Sequence[UserCallback] = (),
    start_failures: int = -1,
) -> dict[str, Any]:
    """Trains a job and returns its last checkpoint's content (emlnet.training.checkpoint).

    storage: the stage's own folder, absolute; called again with it, training goes on from the last
    checkpoint, which lies there unless `compute.storage` says otherwise.
    start_failures: how often workers that found no room are waited for again; -1 without end.
    Raises ValueError when an input is refused, DivergedError when the loss is no longer finite,
    StoppedError when the command was asked to end, RuntimeError when workers failed more often than
    allowed.
    """
    check_batch(job.plan.batch_size, compute)
    scaled = scaling_config(compute)
    if scaled.min_workers < scaled.max_workers:
        job = shared_by(job, scaled.max_workers)
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", SECONDS_TO_START_SMALLER)
    stop_signal = StopSignal()
    trainer = _Trainer(
        worker.run,
        train_loop_config={
            "job": job,
            "compute": compute,
            "stop_signal": stop_signal,
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
        with forward_signals(stop_signal):
            result = trainer.fit()
    except TrainingFailedError as error:
        reason = stop_signal.reason()
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
