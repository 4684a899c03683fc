"""In a worker: what of training is told, to Ray and to the terminal."""

from __future__ import annotations

import base64
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
from ray.train import Checkpoint
from ray.train import CheckpointUploadMode as Mode

from emlnet.training import checkpoint
from emlnet.training.fit import Hooks
from emlnet.training.state import EpochReport, TrainState
from pipelines.ray_train.checkpoint_upload import Uploader, Urgency
from pipelines.ray_train.hang_watchdog import Watch
from pipelines.tracking import figures

if TYPE_CHECKING:
    from pipelines.ray_train.worker import Job, WorkerSource

SECONDS_BETWEEN_LINES = 10


class Reporter(Hooks):
    """Hands metrics and checkpoints to Ray, and prints a line now and then."""

    def __init__(
        self,
        job: Job,
        source: WorkerSource,
        rank: int,
        upload: Uploader,
        urgency: Urgency,
        watch: Watch,
        traced: Callable[[], None],
    ) -> None:
        self.job, self.source, self.rank, self.upload = job, source, rank, upload
        self.urgency, self.watch, self.traced = urgency, watch, traced
        self.last_line = time.monotonic()
        self.first_step: tuple[int, float] | None = None

    def report(self, entry: EpochReport, state: TrainState) -> None:
        """Reports an epoch; every rank calls it, it is a barrier."""
        scores = ", ".join(f"{name} {value:.3f}" for name, value in entry.scores.items())
        best = ", best so far" if entry.best else ""
        loss = f"loss {entry.train_loss['total']:.3f}, " if entry.train_loss else "untrained, "
        unread = f", {entry.unread} images could not be read" if entry.unread else ""
        self.say(
            f"epoch {entry.epoch}/{self.job.plan.epochs}: {loss}val {scores} "
            f"({entry.seconds:.0f} s{best}{unread})"
        )
        self.urgency.asks()
        self._send({"report": asdict(entry), "pictures": self._pictures(state)}, state)
        self.urgency.obey()
        self.first_step = None

    def _pictures(self, state: TrainState) -> str:
        """What the validated model predicts of some pictures: a JPEG in base64, or nothing."""
        if self.rank or not self.job.num_examples:
            return ""
        file = io.BytesIO()
        shown = figures.grid(state.validated_model, self.source.examples(self.job.num_examples))
        shown.save(file, "JPEG", quality=90)
        return base64.b64encode(file.getvalue()).decode()

    def save(self, state: TrainState) -> None:
        """A checkpoint within an epoch."""
        self._send({"step": state.step}, state)
        self.urgency.obey()

    def save_now(self) -> bool:
        """Whether the command was asked to end, or a node is about to go."""
        return self.urgency.asks()

    def progress(self, epoch: int, step: int, num_steps: int) -> None:
        """A line every few seconds."""
        self.traced()
        now = time.monotonic()
        if self.first_step is None:
            self.first_step = (step, now)
        if now - self.last_line >= SECONDS_BETWEEN_LINES and step > self.first_step[0]:
            seconds = (now - self.first_step[1]) / (step - self.first_step[0])
            self.say(
                f"epoch {epoch + 1}/{self.job.plan.epochs} step {step}/{num_steps}, "
                f"{seconds:.2f} s a step, {seconds * (num_steps - step):.0f} s to validation"
            )

    def say(self, line: str) -> None:
        """A line of rank 0."""
        self.last_line = time.monotonic()
        if self.rank == 0:
            print(f"{self.job.title}: {line}", flush=True)

    def _send(self, metrics: dict[str, Any], state: TrainState) -> None:
        """Training goes on while the checkpoint is uploaded, unless there may be no later."""
        folder = None if self.rank else Path(tempfile.mkdtemp(prefix="checkpoint-"))
        checkpoint.save(state, folder)
        hurried = self.urgency.stops or bool(self.urgency.leaving)
        with self.watch.off():  # Storage may be slow, and all ranks wait for rank 0.
            if folder is None:
                ray.train.report(metrics)
                return
            self.upload.wait()
            ray.train.report(
                metrics,
                checkpoint=Checkpoint.from_directory(folder),
                checkpoint_upload_mode=Mode.SYNC if hurried else Mode.ASYNC,
                delete_local_checkpoint_after_upload=True,
                checkpoint_upload_fn=self.upload,
            )
