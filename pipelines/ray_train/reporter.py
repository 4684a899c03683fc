"""In a worker: report to Ray, print progress, and save early before a stop or preemption."""

from __future__ import annotations

import base64
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode

from emlnet.training import checkpoint
from emlnet.training.distributed import sum_over_ranks
from emlnet.training.fit import Hooks
from emlnet.training.state import EpochReport, TrainState
from pipelines.ray_cluster.stop_signal import StoppedError, StopSignal
from pipelines.ray_train.checkpoint_files import CheckpointUploader
from pipelines.ray_train.hang_watchdog import HangWatchdog
from pipelines.ray_train.training_job import WorkerSource
from pipelines.tracking import figures
from shards.files.progress import SECONDS_BETWEEN_LINES

SECONDS_BETWEEN_PREEMPTION_CHECKS = 2.0
"""Checks are rare because each is a barrier for all workers."""


class Reporter(Hooks):
    """Reports metrics and checkpoints to Ray, and prints progress.

    It saves early if a stop is requested or a node is about to be preempted.
    """

    def __init__(
        self,
        source: WorkerSource,
        stop_signal: StopSignal,
        watchdog: HangWatchdog,
        trace_step: Callable[[], None],
    ) -> None:
        self.source, self.job, self.rank = source, source.job, source.rank
        self.stop_signal, self.watchdog, self.trace_step = stop_signal, watchdog, trace_step
        self.uploader = CheckpointUploader(stop_signal)
        self.last_line = self.last_check = time.monotonic()
        self.first_step: tuple[int, float] | None = None
        self.stops = False
        """Whether training stops after the next save."""
        self.leaving: set[str] = set()
        """Ids of the nodes that are about to be preempted."""

    def report(self, entry: EpochReport, state: TrainState) -> None:
        """Report an epoch.  A barrier: every rank must call it."""
        scores = ", ".join(f"{name} {value:.3f}" for name, value in entry.scores.items())
        best = ", best so far" if entry.best else ""
        loss = f"loss {entry.train_loss['total']:.3f}, " if entry.train_loss else "untrained, "
        unread = f", {entry.unread} images could not be read" if entry.unread else ""
        self.print(
            f"epoch {entry.epoch}/{self.job.plan.epochs}: {loss}val {scores} "
            f"({entry.seconds:.0f} s{best}{unread})"
        )
        self.save_now()
        self._report({"report": asdict(entry), "pictures": self._pictures(state)}, state)
        self.first_step = None

    def save(self, state: TrainState) -> None:
        """Report a checkpoint within an epoch.  A barrier: every rank must call it."""
        self._report({"step": state.step}, state)

    def save_now(self) -> bool:
        """Whether to save now: to stop, or before a node is preempted; equal on all ranks."""
        is_due = time.monotonic() - self.last_check > SECONDS_BETWEEN_PREEMPTION_CHECKS
        own = [self.rank == 0 and self.stop_signal.is_stop_requested(), self.rank == 0 and is_due]
        flags = torch.tensor(own, dtype=torch.int32, device=self.source.device)
        stop, check = (sum_over_ranks(flags) > 0).tolist()
        self.stops |= stop
        return self.stops or (check and self._is_node_leaving())

    def _is_node_leaving(self) -> bool:
        """Whether another node is about to be preempted."""
        self.last_check = time.monotonic()
        news = ray.train.get_preemption_info()
        if news is None or self.leaving.issuperset(news.preempted_node_ids):
            return False
        self.leaving = set(news.preempted_node_ids)
        ranks = ", ".join(map(str, news.preempted_ranks))
        self.print(f"the node of rank {ranks} will be preempted, saving a checkpoint")
        return True

    def progress(self, epoch: int, step: int, num_steps: int) -> None:
        """Print a line every few seconds."""
        self.trace_step()
        now = time.monotonic()
        if self.first_step is None:
            self.first_step = (step, now)
        if now - self.last_line >= SECONDS_BETWEEN_LINES and step > self.first_step[0]:
            seconds = (now - self.first_step[1]) / (step - self.first_step[0])
            self.print(
                f"epoch {epoch + 1}/{self.job.plan.epochs} step {step}/{num_steps}, "
                f"{seconds:.2f} s per step, {seconds * (num_steps - step):.0f} s to validation"
            )

    def print(self, line: str) -> None:
        """Print a line on rank 0."""
        self.last_line = time.monotonic()
        if self.rank == 0:
            print(f"{self.job.title}: {line}", flush=True)

    def _pictures(self, state: TrainState) -> str:
        """Return predictions of the validated model as a JPEG in base64; empty without examples."""
        if self.rank or not self.job.num_examples:
            return ""
        file = io.BytesIO()
        drawn = figures.predictions(state.validated_model, self.source.examples(), self.job.title)
        drawn.savefig(file, format="jpeg")
        return base64.b64encode(file.getvalue()).decode()

    def _report(self, metrics: dict[str, Any], state: TrainState) -> None:
        """Report metrics with a checkpoint, which is uploaded while training continues.

        Raises StoppedError if a stop was requested.
        """
        folder = None if self.rank else Path(tempfile.mkdtemp(prefix="checkpoint-"))
        checkpoint.save(state, folder)
        self.watchdog.pause()  # Storage may be slow, and all ranks wait for rank 0.
        if folder is None:
            ray.train.report(metrics)
        else:
            self.uploader.wait()
            in_haste = self.stops or self.leaving
            ray.train.report(
                metrics,
                checkpoint=Checkpoint.from_directory(folder),
                checkpoint_upload_mode=(
                    CheckpointUploadMode.SYNC if in_haste else CheckpointUploadMode.ASYNC
                ),
                delete_local_checkpoint_after_upload=True,
                checkpoint_upload_fn=self.uploader,
            )
        self.watchdog.note_progress()
        if self.stops:
            raise StoppedError
