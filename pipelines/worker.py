"""Inside a Ray Train worker: device, the rank's share, wrapping, reports; calls emlnet.fit."""

from __future__ import annotations

import base64
import io
import logging
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import ray.train
import torch
from ray.train import Checkpoint
from torch import nn

from emlnet import checkpoint
from emlnet.finite import DivergedError
from emlnet.fit import Batches, fit
from emlnet.ranks import share_gradients
from emlnet.speed import compile_training, set_precision, trace
from emlnet.state import EpochReport, Plan, TrainState, averaged, start, unwrap
from pipelines import figures
from pipelines.config import num_cpus

SECONDS_BETWEEN_LINES = 10


class Source(Protocol):
    """One rank's batches, on its device."""

    steps_per_epoch: int

    def train(self, epoch: int, start_step: int) -> Batches:
        """The batches of an epoch, from 0, that are left after `start_step` steps."""

    def val(self) -> Batches:
        """This rank's share of the validation images."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """A model's scores after an epoch, over the validation images of all ranks."""

    def examples(self, num: int) -> Iterable[figures.Example]:
        """At most `num` validation pictures to look at, the same ones each time."""


class Job(Protocol):
    """What a stage trains; made in the driver and sent to every worker."""

    @property
    def title(self) -> str:
        """What progress lines call it."""

    @property
    def plan(self) -> Plan:
        """How it is trained."""

    @property
    def num_examples(self) -> int:
        """Validation pictures to draw after each epoch; 0 draws none."""

    @property
    def seed(self) -> int:
        """Seed of weights, order and flips."""

    def build(self) -> nn.Module:
        """The model, with fresh weights where it has any."""

    def source(self, rank: int, world_size: int, device: torch.device) -> Source:
        """The batches of one rank."""


def run(config: dict[str, Any]) -> str:
    """Trains `config["job"]`, from the last checkpoint when there is one.

    `config["threads"]`, `config["compile"]`: as in Compute.  `config["trace"]`: where rank 0 traces
    a few steps, or None.

    Returns why training stopped early, empty when it did not: a loss that diverged would only
    diverge again if the worker failed and was started anew.
    """
    # Ray's own line at each report repeats all that ours says.
    logging.disable(logging.INFO)
    job: Job = config["job"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        share = max(1, num_cpus() // context.get_local_world_size())
        torch.set_num_threads(config.get("threads") or share)
    set_precision(job.plan.precision)
    torch.manual_seed(job.seed)
    model = job.build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # From here on each rank draws for itself.
    torch.manual_seed(job.seed * 100_003 + rank)
    source = job.source(rank, world_size, device)
    reporter = Reporter(job, rank, source)
    if config.get("compile"):
        compile_training(model, reporter.say)
    if world_size > 1:
        num_parts = getattr(source.train(0, 0), "num_parts", 1)
        model = share_gradients(model, device, num_parts)
    state = start(model, job.plan, source.steps_per_epoch)
    found = ray.train.get_checkpoint()
    if found:
        with found.as_directory() as folder:
            checkpoint.load(state, Path(folder), rank)
        if rank == 0:
            print(f"{job.title}: resumes after epoch {state.epoch}, step {state.step}", flush=True)
    try:
        with trace(config.get("trace") if rank == 0 else None) as traced:

            def progress(epoch: int, step: int, num_steps: int) -> None:
                traced()
                reporter.progress(epoch, step, num_steps)

            fit(
                state,
                job.plan,
                source.train,
                source.val,
                reporter.report,
                reporter.save,
                progress,
                source.evaluate,
            )
    except DivergedError as error:
        return str(error)
    return ""


class Reporter:
    """Hands metrics and checkpoints to Ray, and prints a line now and then."""

    def __init__(self, job: Job, rank: int, source: Source) -> None:
        self.job, self.rank, self.source = job, rank, source
        self.last_line = time.monotonic()
        self.first_step: tuple[int, float] | None = None

    def report(self, entry: EpochReport, state: TrainState) -> None:
        """Reports an epoch; every rank calls it, it is a barrier."""
        scores = ", ".join(f"{name} {value:.3f}" for name, value in entry.scores.items())
        best = ", best so far" if entry.best else ""
        loss = f"loss {entry.train_loss['total']:.3f}, " if entry.train_loss else "untrained, "
        self.say(
            f"epoch {entry.epoch}/{self.job.plan.epochs}: {loss}val {scores} "
            f"({entry.seconds:.0f} s{best})"
        )
        self._send({"report": asdict(entry), "pictures": self._pictures(state)}, state)
        self.first_step = None

    def _pictures(self, state: TrainState) -> str:
        """What the validated model predicts of some pictures: a JPEG in base64, or nothing."""
        if self.rank or not self.job.num_examples:
            return ""
        file = io.BytesIO()
        with averaged(state):
            shown = figures.grid(unwrap(state.model), self.source.examples(self.job.num_examples))
        shown.save(file, "JPEG", quality=90)
        return base64.b64encode(file.getvalue()).decode()

    def save(self, state: TrainState) -> None:
        """A checkpoint within an epoch."""
        self._send({"step": state.step}, state)

    def progress(self, epoch: int, step: int, num_steps: int) -> None:
        """A line every few seconds."""
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
        if self.rank:
            checkpoint.save(state, None)
            ray.train.report(metrics)
            return
        folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))
        try:
            checkpoint.save(state, folder)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
