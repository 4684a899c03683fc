"""In a Ray Train worker: prepare device, model and batches, and call `fit`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray.train
import torch
from torch import nn

from emlnet.models.precision import (
    compile_training,
    has_bfloat16,
    set_precision,
    to_channels_last,
    trace,
)
from emlnet.training import checkpoint
from emlnet.training.distributed import share_gradients
from emlnet.training.divergence import DivergedError
from emlnet.training.fit import fit
from emlnet.training.state import TrainState, start, unwrap
from pipelines.config.options import Compute, num_cpus
from pipelines.ray_cluster.stop_signal import StoppedError, StopSignal
from pipelines.ray_train.checkpoint_files import find_newest
from pipelines.ray_train.hang_watchdog import HangWatchdog
from pipelines.ray_train.reporter import Reporter
from pipelines.ray_train.training_job import TrainingJob, WorkerSource

MAX_NAMED = 16
"""Most samples that an error names."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """The settings that every worker gets.

    checkpoints: folder of this run's checkpoints; None for a bucket.  trace: file for rank 0's
    trace of a few steps, or None.
    """

    job: TrainingJob
    compute: Compute
    stop_signal: StopSignal
    checkpoints: Path | None
    trace: Path | None


def run(given: dict[str, WorkerConfig]) -> Exception | None:
    """Train a job from its last checkpoint, if any; return the error that ended it early.

    given: the config under the key `config`.  A stop and a diverged loss are returned, not raised,
    because Ray would start another attempt.  A ValueError is raised, so that ranks that wait for
    this one end too; the next attempt, if any, returns it.
    """
    logging.disable(logging.INFO)  # Ray prints a line per report, which repeats ours.
    config = given["config"]
    job, stop_signal = config.job, config.stop_signal
    if reason := stop_signal.reason():
        return ValueError(f"{job.title}: {reason}")
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    rank = context.get_world_rank()
    if device.type == "cpu":
        share = max(1, num_cpus() // context.get_local_world_size())
        torch.set_num_threads(config.compute.threads or share)
    set_precision(job.plan.precision)
    watchdog = HangWatchdog(rank, config.compute.timeout)
    try:
        source = job.source(rank, context.get_world_size(), device)
        with trace(None if rank else config.trace) as trace_step:
            hooks = Reporter(source, stop_signal, watchdog, trace_step)
            state = load_state(config, source, hooks.print)
            for model in {unwrap(state.model), state.validated_model}:
                model.register_forward_hook(lambda *_: watchdog.note_progress())
            fit(state, job.plan, source, hooks)
    except StoppedError:
        return StoppedError(f"{job.title}: stopped on request; run the same command to resume")
    except DivergedError as error:
        return DivergedError(f"{job.title}: {error}{name_samples(error, source)}")
    except ValueError as error:
        # The other ranks may be waiting for this one: fail, and tell the next attempt why.
        stop_signal.give_up(str(error))
        raise
    finally:
        watchdog.pause()
    return None


def load_state(
    config: WorkerConfig, source: WorkerSource, print_line: Callable[[str], None]
) -> TrainState:
    """Build the model; return its state, from the last checkpoint if there is one."""
    job, compute = config.job, config.compute
    rank, world_size, device = source.rank, source.world_size, source.device
    torch.manual_seed(job.seed)
    model = to_channels_last(job.build(), device)
    # From here on each rank draws its own random numbers.
    torch.manual_seed(job.seed * 100_003 + rank)
    if job.plan.precision == "bfloat16" and device.type == "cpu" and not has_bfloat16():
        print_line("this CPU has no bfloat16 instructions: --precision float32 is far faster")
    if world_size > 1:
        if compute.sync_bn and device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        model = share_gradients(model, device, source.batches_per_step)
    state = start(model, job.plan, source.steps_per_epoch)
    if compute.compile:
        compile_training(unwrap(model), print_line)
    saved = ray.train.get_checkpoint()
    if saved is None and config.checkpoints:
        saved = find_newest(config.checkpoints)
    if saved:
        with saved.as_directory() as folder:
            checkpoint.load(state, Path(folder), rank)
        workers = f"{world_size} worker{'s' if world_size > 1 else ''}"
        print_line(f"resumes after epoch {state.epoch}, step {state.step}, with {workers}")
    return state


def name_samples(error: DivergedError, source: WorkerSource) -> str:
    """Name the samples of the step whose loss was not finite."""
    if error.epoch is None or error.step is None:
        return ""
    keys = source.keys(error.epoch, error.step - 1)
    more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
    return f"; samples of that step: {', '.join(keys[:MAX_NAMED])}{more}"
