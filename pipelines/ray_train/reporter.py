"""In a worker: what training reports to Ray and prints."""

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
from ray.train import Checkpoint, CheckpointUploadMode

from emlnet.training import checkpoint
from emlnet.training.fit import Hooks
from emlnet.training.state import EpochReport, TrainState
from pipelines.ray_train.checkpoint_upload import CheckpointUploader
from pipelines.ray_train.early_save import EarlySave
from pipelines.ray_train.hang_watchdog import HangWatchdog
from pipelines.ray_train.training_job import TrainingJob, WorkerSource
from pipelines.tracking import figures
from shards.files.progress import SECONDS_BETWEEN_LINES


class Reporter(Hooks):
    """Reports metrics and checkpoints to Ray, and prints a line now and then."""

    def __init__(
        self,
        job: TrainingJob,
        source: WorkerSource,
        rank: int,
        uploader: CheckpointUploader,
        early_save: EarlySave,
        watchdog: HangWatchdog,
        trace_step: Callable[[], None],
    ) -> None:
        self.job, self.source, self.rank, self.uploader = job, source, rank, uploader
        self.early_save, self.watchdog, self.trace_step = early_save, watchdog, trace_step
        self.last_line = time.monotonic()
        self.first_step: tuple[int, float] | None = None

    def report(self, entry: EpochReport, state: TrainState) -> None:
        """Report an epoch; a barrier, which every rank calls."""
        scores = ", ".join(f"{name} {value:.3f}" for name, value in entry.scores.items())
        best = ", best so far" if entry.best else ""
        loss = f"loss {entry.train_loss['total']:.3f}, " if entry.train_loss else "untrained, "
        unread = f", {entry.unread} images could not be read" if entry.unread else ""
        self.print(
            f"epoch {entry.epoch}/{self.job.plan.epochs}: {loss}val {scores} "
            f"({entry.seconds:.0f} s{best}{unread})"
        )
        self.early_save.is_due()
        self._report({"report": asdict(entry), "pictures": self._pictures(state)}, state)
        self.first_step = None

    def save(self, state: TrainState) -> None:
        """Report a checkpoint within an epoch; a barrier, which every rank calls."""
        self._report({"step": state.step}, state)

    def save_now(self) -> bool:
        """Whether the command must stop, or a node is about to go."""
        return self.early_save.is_due()

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
                f"{seconds:.2f} s a step, {seconds * (num_steps - step):.0f} s to validation"
            )

    def print(self, line: str) -> None:
        """Print a line on rank 0."""
        self.last_line = time.monotonic()
        if self.rank == 0:
            print(f"{self.job.title}: {line}", flush=True)

    def _pictures(self, state: TrainState) -> str:
        """Predictions of the validated model as a JPEG in base64; empty where none are drawn."""
        if self.rank or not self.job.num_examples:
            return ""
        file = io.BytesIO()
        chosen = self.source.examples(self.job.num_examples)
        drawn = figures.predictions(state.validated_model, chosen, self.job.title)
        drawn.savefig(file, format="jpeg")
        return base64.b64encode(file.getvalue()).decode()

    def _report(self, metrics: dict[str, Any], state: TrainState) -> None:
        """Report metrics with a checkpoint, which is uploaded while training continues.

        Raises StoppedError when training is to stop.
        """
        folder = None if self.rank else Path(tempfile.mkdtemp(prefix="checkpoint-"))
        checkpoint.save(state, folder)
        in_haste = self.early_save.stops or bool(self.early_save.leaving)
        with self.watchdog.pause():  # Storage may be slow, and all ranks wait for rank 0.
            if folder is None:
                ray.train.report(metrics)
            else:
                self.uploader.wait()
                mode = CheckpointUploadMode.SYNC if in_haste else CheckpointUploadMode.ASYNC
                ray.train.report(
                    metrics,
                    checkpoint=Checkpoint.from_directory(folder),
                    checkpoint_upload_mode=mode,
                    delete_local_checkpoint_after_upload=True,
                    checkpoint_upload_fn=self.uploader,
                )
        self.early_save.raise_if_stopped()
