"""Inside a Ray Train worker: device, the rank's share, wrapping, reports; calls `fit`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import ray.train
import torch
from torch import nn

from emlnet.models.precision import (
    compile_training,
    lay_out,
    multiplies_bfloat16,
    set_precision,
    trace,
)
from emlnet.training import checkpoint
from emlnet.training.distributed import share_gradients
from emlnet.training.divergence import DivergedError
from emlnet.training.fit import BatchSource, fit
from emlnet.training.state import Plan, TrainState, start, unwrap
from pipelines.config.options import Compute, num_cpus
from pipelines.ray_cluster.stop_signal import StopListener, StoppedError, StopSignal
from pipelines.ray_train.checkpoint_upload import Uploader, Urgency
from pipelines.ray_train.hang_watchdog import Watch
from pipelines.ray_train.reporter import Reporter
from pipelines.tracking import figures

NAMED = 16
"""Samples that an error lists."""


class WorkerSource(BatchSource):
    """A worker's batches, the names of their images, and validation images to draw."""

    def keys(self, epoch: int, step: int) -> list[str]:
        """Return the images of all ranks in a step of an epoch, both from 0."""
        raise NotImplementedError

    def examples(self, num: int) -> Iterable[figures.Example]:
        """Return at most `num` validation images to draw, always the same ones."""
        raise NotImplementedError


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

    def source(self, rank: int, world_size: int, device: torch.device) -> WorkerSource:
        """The batches of one rank."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How training ended, when no worker failed.

    reason: why it stopped early; empty when it did not.
    """

    kind: Literal["finished", "diverged", "stopped", "refused"]
    reason: str = ""


def run(config: dict[str, Any]) -> Outcome:
    """Trains `config["job"]`, from the last checkpoint when there is one.

    `config["compute"]`: a Compute.  `config["stop_signal"]`: a StopSignal.  `config["trace"]`:
    where rank 0 traces a few steps, or None.  A loss that diverged or an input that was refused
    is an outcome, not a failure: another attempt would end the same.
    """
    # Ray's own line at each report repeats all that ours says.
    logging.disable(logging.INFO)
    job: Job = config["job"]
    compute: Compute = config["compute"]
    stop_signal: StopSignal = config["stop_signal"]
    if reason := stop_signal.reason():
        return Outcome(kind="refused", reason=reason)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        share = max(1, num_cpus() // context.get_local_world_size())
        torch.set_num_threads(compute.threads or share)
    set_precision(job.plan.precision)
    watch = Watch(rank, compute.timeout)
    urgency = Urgency(job.title, rank, device, StopListener(stop_signal) if rank == 0 else None)
    try:
        source = job.source(rank, world_size, device)
        with trace(config["trace"] if rank == 0 else None) as traced:
            reporter = Reporter(job, source, rank, Uploader(stop_signal), urgency, watch, traced)
            state = prepare(job, compute, source, reporter.say)
            for model in {unwrap(state.model), state.validated_model}:
                model.register_forward_hook(lambda *_: watch.beat())
            fit(state, job.plan, source, reporter)
    except StoppedError:
        return Outcome(kind="stopped")
    except DivergedError as error:
        return Outcome(kind="diverged", reason=f"{error}{samples_of(error, source)}")
    except ValueError as error:
        # The other ranks may be waiting for this one: fail, and tell the next attempt why.
        stop_signal.give_up(str(error))
        raise
    finally:
        watch.end()
    return Outcome(kind="finished")


def prepare(
    job: Job, compute: Compute, source: WorkerSource, say: Callable[[str], None]
) -> TrainState:
    """A model to train, as it was at the last checkpoint."""
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.manual_seed(job.seed)
    model = lay_out(job.build(), device)
    # From here on each rank draws for itself.
    torch.manual_seed(job.seed * 100_003 + rank)
    if job.plan.precision == "bfloat16" and device.type == "cpu" and not multiplies_bfloat16():
        say("this CPU has no instructions for bfloat16: --precision float32 is far faster")
    if world_size > 1:
        if compute.sync_bn and device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        model = share_gradients(model, device, source.batches_per_step)
    state = start(model, job.plan, source.steps_per_epoch)
    if compute.compile:
        compile_training(unwrap(model), say)
    found = ray.train.get_checkpoint()
    if found:
        with found.as_directory() as folder:
            checkpoint.load(state, Path(folder), rank)
        workers = f"{world_size} worker{'s' if world_size > 1 else ''}"
        say(f"resumes after epoch {state.epoch}, step {state.step}, with {workers}")
    return state


def samples_of(error: DivergedError, source: WorkerSource) -> str:
    """The samples of the step whose loss was not finite, in words."""
    if error.epoch is None or error.step is None:
        return ""
    keys = source.keys(error.epoch, error.step - 1)
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return f"; samples of that step: {', '.join(keys[:NAMED])}{more}"
