"""A small encoder's training in which something goes wrong, once, at a step of a rank."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from emlnet.models.encoder import EncoderConfig
from emlnet.training import checkpoint
from emlnet.training.state import Plan
from emlnet.training.validation import TrainBatch
from pipelines.config.options import Compute
from pipelines.ray_train import trainer
from pipelines.stages.encoder_stage import EncoderJob, ShardSource

TINY = EncoderConfig(backbone="tiny", weights="none", size=(48, 64))
PAIR = Compute(num_workers=2, max_failures=1, threads=1)


@dataclass(frozen=True, kw_only=True)
class FaultyJob(EncoderJob):
    """Writes a line for each step into `log`, and does what `fault` names, the first time.

    at: epoch and step, from 0, of the fault.  pause: seconds that each step takes until the gate
    is open.
    """

    log: Path
    fault: str = ""
    at: tuple[int, int] = (0, 0)
    rank: int = 0
    pause: float = 0.0

    @property
    def happened(self) -> Path:
        """Exists as soon as the fault happened."""
        return self.log.with_name(f"{self.log.name}-{self.fault}")

    @property
    def gate(self) -> Path:
        """Ends pauses, and the fault `wait_at_gate`."""
        return self.log.with_name("gate")

    def source(self, rank: int, world_size: int, device: torch.device) -> FaultySource:
        return FaultySource(self, rank, world_size, device)


class FaultySource(ShardSource):
    def __init__(self, job: FaultyJob, rank: int, world_size: int, device: torch.device) -> None:
        super().__init__(job, rank, world_size, device)
        self.faulty = job

    def train(self, epoch: int, start_step: int) -> Iterator[TrainBatch]:
        job = self.faulty
        for number, (inputs, targets) in enumerate(super().train(epoch, start_step)):
            if number % self.batches_per_step == 0:
                step = start_step + number // self.batches_per_step
                time.sleep(0 if job.gate.exists() else job.pause)
                if self.rank == 0:
                    with job.log.open("a") as log:
                        log.write(f"{epoch} {step} {self.world_size}\n")
                here = (self.rank, (epoch, step)) == (job.rank, job.at)
                if job.fault and here and not job.happened.exists():
                    job.happened.touch()
                    FAULTS[job.fault](job)
            yield inputs, targets


def kill(job: FaultyJob) -> None:
    epoch, step = job.at
    due = (epoch, step - step % job.plan.checkpoint_every)
    wait_until(lambda: last_checkpoint(training_of(job)) == due, f"no checkpoint {due}")
    os.kill(os.getpid(), signal.SIGKILL)


def hang(job: FaultyJob) -> None:
    time.sleep(1000)


def wait_at_gate(job: FaultyJob) -> None:
    wait_until(job.gate.exists, "nobody opened the gate", 300)


def bad_input(job: FaultyJob) -> None:
    raise ValueError("shard 3 is broken")


FAULTS = {fault.__name__: fault for fault in (kill, hang, wait_at_gate, bad_input)}


def training_of(job: FaultyJob) -> Path:
    """Where Ray Train keeps a job's checkpoints, unless told otherwise."""
    return job.log.parent / "training"


def last_checkpoint(training: Path) -> tuple[int, int]:
    """Epoch and step of the checkpoint that training would go on from; (0, 0) without one."""
    try:
        # Ray Train's own list: what lies in the folder and is not in it does not count.
        known = json.loads((training / "checkpoint_manager_snapshot.json").read_text())
        newest = training / known["latest_checkpoint_result"]["checkpoint_dir_name"]
        content = checkpoint.read(newest)
    except (OSError, TypeError, ValueError):
        return 0, 0  # There is none, or it is being replaced at this moment.
    return content["epoch"], content["step"]


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Raises AssertionError, with what was waited for, when that takes too long."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def make_job(data: Path, folder: Path, fault: str = "", **changes: Any) -> FaultyJob:
    """Three epochs of six steps of two images each."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"epochs": 3, "batch_size": 2, "checkpoint_every": 2, **changes.pop("plan", {})}
    return FaultyJob(
        data=(data,),
        encoder=TINY,
        plan=Plan(**plan),
        seed=1,
        title="encoder tiny",
        log=folder / "steps",
        fault=fault,
        **changes,
    )


def steps(job: FaultyJob) -> list[tuple[int, int, int]]:
    """Epoch, step and number of workers of each step that was begun."""
    if not job.log.exists():
        return []
    return [tuple(map(int, line.split())) for line in job.log.read_text().splitlines()]  # type: ignore[misc]


def difference(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of weights that are not bit-equal in two checkpoints."""
    assert one["model"].keys() == other["model"].keys()
    return [k for k, v in one["model"].items() if not torch.equal(v, other["model"][k])]


def begun_twice(job: FaultyJob) -> int:
    """Steps that were begun a second time."""
    begun = [step[:2] for step in steps(job)]
    return len(begun) - len(set(begun))


@contextmanager
def training(
    job: FaultyJob, compute: Compute, train: Callable[..., Any] = trainer.train
) -> Iterator[Future[dict[str, Any]]]:
    """A job that trains beside the body: only the main thread may add nodes to a cluster."""
    with ThreadPoolExecutor(1) as pool:
        content = pool.submit(train, job, training_of(job), compute)
        try:
            yield content
        except BaseException:
            ray.shutdown()  # Else it would be waited for.
            raise
