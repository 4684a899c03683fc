"""Training: plain loops over batches, a state, and a report at the end of each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from emlnet.data.framing import by_frame
from emlnet.data.maps import Kind, mirror_average, to_density, to_log_density
from emlnet.data.samples import Targets
from emlnet.losses.weighted import saliency_loss
from emlnet.metrics.saliency_metrics import Rules, score
from emlnet.models.precision import autocast
from emlnet.training.distributed import num_ranks, sum_over_ranks
from emlnet.training.divergence import DivergedError, Skipper, add_checked, check_weights
from emlnet.training.state import (
    EpochReport,
    Plan,
    TrainState,
    averaged,
    better,
    trainable,
    trained_weights,
    unwrap,
    update_average,
)

Inputs = tuple[Any, ...]
"""What a model is called with: images, or readouts and a size."""


class Batches(Protocol):
    """An epoch's batches, or what is left of it after `start_step` steps; its length is in steps.

    `num_parts`, where it has that, is the number of batches that each step is made of.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Inputs, Targets]]: ...


Report = Callable[[EpochReport, TrainState], None]
Save = Callable[[TrainState], None]
EvaluateModel = Callable[[nn.Module], dict[str, float]]
Baseline = Callable[[tuple[int, int]], Tensor]
"""A log-density (1, 1, H, W) to measure information gain over, for pictures of that (H, W)."""
Progress = Callable[[int, int, int], None]
"""Called after each step with the epoch, from 0, the steps done in it and its number of steps."""
Urgent = Callable[[], bool]
Count = Callable[[], int]
STEPS_BETWEEN_CHECKS = 25
"""On a GPU, whose losses are not waited for at each step."""


def fit(
    state: TrainState,
    plan: Plan,
    train_batches: Callable[[int, int], Batches],
    val_batches: Callable[[], Batches],
    report: Report,
    save: Save | None = None,
    progress: Progress | None = None,
    evaluate_model: EvaluateModel | None = None,
    urgent: Urgent | None = None,
    count_unread: Count | None = None,
) -> TrainState:
    """Trains from where the state is to the plan's last epoch, validating and reporting after each.

    train_batches: called with an epoch, counted from 0, and the steps of it that are done; gives
    the batches that are left.  save: called every `checkpoint_every` steps within an epoch.
    evaluate_model: scores the model after each epoch; default: `evaluate` over `val_batches`.
    urgent: whether to save at once; every rank asks it equally often and must get one answer.
    count_unread: how many images of the epoch this rank could not read.
    A model that answers well before any training (a decoder that starts at the average of its
    encoders) is a candidate for the best one, reported as epoch 0.
    Raises DivergedError when the loss is not finite, with the step.
    """
    evaluate_model = evaluate_model or (lambda model: evaluate(model, val_batches()))
    if (
        state.epoch == 0
        and not state.history
        and getattr(unwrap(state.model), "starts_ready", False)
    ):
        _validate(state, plan, {}, evaluate_model, report, count_unread, time.perf_counter())
    for epoch in range(state.epoch, plan.epochs):
        began = time.perf_counter()
        losses = train_epoch(state, plan, train_batches(epoch, state.step), save, progress, urgent)
        state.epoch, state.step, state.loss_sums = epoch + 1, 0, None
        _validate(state, plan, losses, evaluate_model, report, count_unread, began)
    return state


def _validate(
    state: TrainState,
    plan: Plan,
    losses: dict[str, float],
    evaluate_model: EvaluateModel,
    report: Report,
    count_unread: Count | None,
    began: float,
) -> None:
    if dist.is_initialized():
        # BatchNorm's running statistics are each rank's own; rank 0's are scored and kept.
        for buffer in state.model.buffers():
            dist.broadcast(buffer, 0)
    with averaged(state):
        scores = evaluate_model(state.model)
        best = all(better(scores, past.scores, plan.select) for past in state.history if past.best)
        if state.history and state.history[0].epoch == 0:
            untrained = state.history[0].scores
            best &= not any(better(untrained, scores, metric) for metric in plan.guard)
        if best:
            state.best_weights = trained_weights(state.model)
    unread = torch.tensor(count_unread() if count_unread else 0, device=_device(state.model))
    entry = EpochReport(
        epoch=state.epoch,
        train_loss=losses,
        scores=scores,
        seconds=time.perf_counter() - began,
        best=best,
        skipped=state.skipped,
        unread=int(sum_over_ranks(unread)),
    )
    state.skipped = 0
    state.history.append(entry)
    report(entry, state)


def train_epoch(
    state: TrainState,
    plan: Plan,
    batches: Batches,
    save: Save | None = None,
    progress: Progress | None = None,
    urgent: Urgent | None = None,
) -> dict[str, float]:
    """What is left of one epoch; returns the mean over all its images, of all ranks, of the total
    loss and of each term.

    Nothing is read from a GPU between steps but every 25th, when the losses are checked.
    Raises DivergedError when the loss is not finite, ValueError when there is no batch.
    """
    model, kind = state.model.train(), _kind(state.model)
    num_steps = state.step + len(batches)
    skipper = Skipper(model) if plan.on_nan == "skip" else None
    # On a CPU nothing is gained by waiting.
    steps_between_checks = STEPS_BETWEEN_CHECKS if trainable(model)[0].is_cuda else 1
    names: list[str] = []
    unchecked: list[Tensor] = []
    for parts in _in_steps(batches):
        state.optimizer.zero_grad(set_to_none=True)
        names, sums = _backward(model, parts, plan, kind)
        skips = False
        if plan.clip_norm or skipper:
            norm = nn.utils.clip_grad_norm_(trainable(model), plan.clip_norm or math.inf)
            skips = skipper is not None and skipper.skips(norm)
        if skips:
            state.skipped += 1
            sums = torch.zeros_like(sums)
        else:
            state.optimizer.step()
            if plan.ema:
                update_average(state, plan.ema)
        state.schedule.step()
        state.step += 1
        unchecked.append(sums)
        saving = bool(plan.checkpoint_every) and state.step % plan.checkpoint_every == 0
        if saving or len(unchecked) == steps_between_checks or state.step == num_steps:
            state.loss_sums = add_checked(state, unchecked, num_steps)
            unchecked = []
            saving |= urgent is not None and urgent()
        if saving or state.step == num_steps:
            check_weights(state, num_steps)
        if saving and save and state.step < num_steps:
            save(state)
        if progress:
            progress(state.epoch, state.step, num_steps)
    if state.loss_sums is None or not names:
        raise ValueError("an epoch without a single step: there are no training images")
    *means, num_images = state.loss_sums.tolist()
    if not num_images:
        raise DivergedError(f"no step of epoch {state.epoch + 1} had a finite gradient")
    return {name: value / num_images for name, value in zip(names, means, strict=True)}


def _in_steps(batches: Batches) -> Iterator[list[tuple[Inputs, Targets]]]:
    """The batches that each step is made of: one, or as many as share its gradient."""
    num_parts = getattr(batches, "num_parts", 1)
    parts = iter(batches)
    while step := list(islice(parts, num_parts)):
        yield step


def _backward(
    model: nn.Module, parts: list[tuple[Inputs, Targets]], plan: Plan, kind: Kind
) -> tuple[list[str], Tensor]:
    """The gradient of a step's mean loss over all images of all ranks.

    Returns names, `total` first, and (names + 1,) sums over this rank's images, their number last.
    """
    # Averaged over ranks, gradients are those of the mean over all images.
    weight = torch.stack([targets.weight.sum() for _, targets in parts]).sum()
    divisor = sum_over_ranks(weight.clone()).clamp_min(1) / num_ranks()
    names, sums = [], []
    for number, (inputs, targets) in enumerate(parts, 1):
        # Ranks exchange gradients once a step, with its last part.
        waits = isinstance(model, DistributedDataParallel) and number < len(parts)
        with model.no_sync() if waits else nullcontext():  # type: ignore[operator]
            with autocast(plan.precision, targets.density.device):
                output = model(*inputs)
            total, terms = saliency_loss(output, targets, plan.loss_weights, kind, plan.terms)
            loss = (total * targets.weight).sum() / divisor
            loss.backward()  # type: ignore[no-untyped-call]
        names = ["total", *terms]
        values = torch.stack([total, *terms.values(), torch.ones_like(total)]).detach().double()
        sums.append(values @ targets.weight.double())
    return names, torch.stack(sums).sum(0)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Batches,
    rules: Rules = "mit",
    flip: bool = False,
    baseline: Baseline | None = None,
) -> dict[str, float]:
    """Mean over the images of all ranks of each metric; fixation metrics skip images without any.

    flip: score the average with the mirrored picture's map.  baseline: adds `ig` over it.
    Every rank calls it equally often.
    """
    model.eval()
    kind, names, sums = _kind(model), [], []
    for inputs, targets in batches:
        output = unwrap(model)(*inputs)
        if flip:
            mirrored = unwrap(model)(inputs[0].flip(-1), *inputs[1:])
            output = mirror_average(output, mirrored, kind)
        more: dict[str, Tensor] = {}
        if baseline:
            density = baseline(targets.size).to(targets.density)
            more["baseline_log_density"] = density.expand_as(targets.density)
        scores = score_output(output, targets, kind, rules, **more)
        values = torch.stack(list(scores.values())).double()
        counted = targets.weight.double() * values.isfinite()
        names = list(scores)
        sums.append(torch.stack([(values.nan_to_num() * counted).sum(1), counted.sum(1)]))
    if not sums:
        raise ValueError("there is nothing to evaluate: no validation images")
    total, number = sum_over_ranks(torch.stack(sums).sum(0))
    return dict(zip(names, (total / number).tolist(), strict=True))


def score_output(
    output: Tensor, targets: Targets, kind: Kind, rules: Rules = "mit", **more: Tensor
) -> dict[str, Tensor]:
    """All metrics of a rule book for a model's output, (B,) each; see saliency_metrics.score.

    more: maps of its other arguments, for targets without frames.
    """
    assert not more or targets.frames is None

    def measure(maps: Tensor, gaze: Targets) -> dict[str, Tensor]:
        return score(
            to_density(maps, "density") if kind == "density" else maps,
            gaze.fixation_map(),
            gaze.density,
            rules=rules,
            log_density=to_log_density(maps, kind),
            **more,
        )

    return by_frame(output, targets, kind, measure)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _kind(model: nn.Module) -> Kind:
    kind = unwrap(model).kind
    assert kind in ("density", "eml")
    return kind  # type: ignore[return-value]
