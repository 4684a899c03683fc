"""The training loop: `fit` trains a state on a source's batches and calls hooks."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from emlnet.losses import TOTAL, saliency_loss
from emlnet.models.precision import autocast
from emlnet.training.distributed import num_ranks, sum_over_ranks
from emlnet.training.divergence import DivergedError, check_losses, check_weights
from emlnet.training.state import (
    EpochReport,
    Plan,
    TrainState,
    is_better,
    trainable,
    trained_weights,
    unwrap,
)
from emlnet.training.validation import TrainBatch, evaluate

STEPS_BETWEEN_CHECKS = 25
"""Steps between reads of the losses on a GPU, where each read waits for the device."""


class BatchSource(ABC):
    """One rank's batches, on its device.  Subclasses implement `train` and `val`."""

    steps_per_epoch: int
    batches_per_step: int = 1
    """Number of batches whose gradients one step adds up."""

    @abstractmethod
    def train(self, epoch: int, start_step: int) -> Iterable[TrainBatch]:
        """Return the batches of an epoch (from 0), without its first `start_step` steps."""

    @abstractmethod
    def val(self) -> Iterable[TrainBatch]:
        """Return this rank's share of the validation batches."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return a model's scores after an epoch, over the validation images of all ranks."""
        return evaluate(model, self.val())

    def count_unread(self) -> int:
        """Return the number of images of the latest epoch that this rank could not read."""
        return 0


class Hooks:
    """Callbacks of `fit`, called on every rank; each does nothing unless overridden."""

    def report(self, entry: EpochReport, state: TrainState) -> None:
        """Called after each validation."""

    def save(self, state: TrainState) -> None:
        """Called for each checkpoint within an epoch."""

    def save_now(self) -> bool:
        """Return whether to save after this step; all ranks must return the same."""
        return False

    def progress(self, epoch: int, step: int, num_steps: int) -> None:
        """Called after each step with the epoch, from 0, and the steps done in it."""


def fit(
    state: TrainState, plan: Plan, source: BatchSource, hooks: Hooks | None = None
) -> TrainState:
    """Train from the state's epoch and step to the plan's last epoch; validate after each epoch.

    Raises DivergedError when the loss is not finite.
    """
    hooks = hooks or Hooks()
    if state.epoch == 0 and not state.history and unwrap(state.model).validate_untrained:
        finish_epoch(state, plan, source, hooks, train_loss={}, began=time.perf_counter())
    while state.epoch < plan.epochs:
        began = time.perf_counter()
        train_loss = train_epoch(state, plan, source, hooks)
        state.end_epoch()
        finish_epoch(state, plan, source, hooks, train_loss, began)
    return state


def train_epoch(
    state: TrainState, plan: Plan, source: BatchSource, hooks: Hooks | None = None
) -> dict[str, float]:
    """Train the rest of an epoch; return its mean losses over the images of all ranks.

    The losses are `total` and each unweighted term.
    Raises DivergedError if the loss is not finite, ValueError if there are no batches.
    """
    hooks = hooks or Hooks()
    model, num_steps = state.model.train(), source.steps_per_epoch
    unchecked: list[Tensor] = []
    check_every = STEPS_BETWEEN_CHECKS if trainable(model)[0].is_cuda else 1
    for batches in _steps(source, state):
        unchecked.append(train_step(state, plan, batches))
        is_last = state.step == num_steps
        save = bool(plan.checkpoint_every) and state.step % plan.checkpoint_every == 0
        if save or is_last or len(unchecked) == check_every:
            state.loss_sums = check_losses(state, unchecked, num_steps)
            unchecked = []
            save |= hooks.save_now()
        if save or is_last:
            check_weights(state, num_steps)
        if save and not is_last:
            hooks.save(state)
        hooks.progress(state.epoch, state.step, num_steps)
    if state.loss_sums is None:
        raise ValueError("no training images")
    *sums, num_images = state.loss_sums.tolist()
    if not num_images:
        raise DivergedError(f"no step of epoch {state.epoch + 1} had a finite gradient")
    names = [TOTAL, *plan.loss_weights.nonzero]
    return {name: value / num_images for name, value in zip(names, sums, strict=True)}


def train_step(state: TrainState, plan: Plan, batches: list[TrainBatch]) -> Tensor:
    """Take a step; return its loss sums as `backward` does, zeros for a skipped step."""
    model = state.model
    before = [b.clone() for b in model.buffers()] if plan.on_nan == "skip" else []
    state.optimizer.zero_grad()
    losses = backward(model, batches, plan)
    norm = nn.utils.clip_grad_norm_(trainable(model), plan.clip_norm or math.inf)
    if plan.on_nan == "skip" and not norm.isfinite():
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)  # Undo the step in BatchNorm, too.
        losses = torch.zeros_like(losses)
        state.skipped += 1
    else:
        state.optimizer.step()
        if state.average is not None:
            state.average.update_parameters(unwrap(model))
    state.schedule.step()
    state.step += 1
    return losses


def _steps(source: BatchSource, state: TrainState) -> Iterator[list[TrainBatch]]:
    batches = iter(source.train(state.epoch, state.step))
    while step := list(islice(batches, source.batches_per_step)):
        yield step


def backward(model: nn.Module, batches: list[TrainBatch], plan: Plan) -> Tensor:
    """Compute the gradient of a step's mean loss over the images of all ranks.

    Returns float64 sums over this rank's images: total loss, each term with a weight, number of
    images.
    """
    kind, sums = unwrap(model).kind, list[Tensor]()
    num_images = sum_over_ranks(torch.stack([t.weight.sum() for _, t in batches]).sum())
    # DistributedDataParallel averages gradients over ranks; the loss is a mean over images.
    divisor = num_images.clamp_min(1) / num_ranks()
    for position, (inputs, targets) in enumerate(batches):
        is_last = position == len(batches) - 1
        accumulates = isinstance(model, DistributedDataParallel) and not is_last
        with model.no_sync() if accumulates else nullcontext():  # type: ignore[operator]
            with autocast(plan.precision, targets.density.device):
                output = model(*inputs)
            total, terms = saliency_loss(output, targets, plan.loss_weights, kind, plan.terms)
            loss = (total * targets.weight).sum() / divisor
            loss.backward()  # type: ignore[no-untyped-call]
        values = torch.stack([total, *terms.values(), torch.ones_like(total)]).detach().double()
        sums.append(values @ targets.weight.double())
    return torch.stack(sums).sum(0)


def finish_epoch(
    state: TrainState,
    plan: Plan,
    source: BatchSource,
    hooks: Hooks,
    train_loss: dict[str, float],
    began: float,
) -> None:
    """Validate the model, keep its weights if they are the best so far, and report."""
    model = state.validated_model
    if dist.is_initialized():
        # Each rank has its own running statistics of BatchNorm; rank 0's are scored and kept.
        for buffer in [*state.model.buffers(), *model.buffers()]:
            dist.broadcast(buffer, 0)
    scores = source.evaluate(model)
    best = all(is_better(scores, past.scores, plan.select) for past in state.history if past.best)
    if state.history and state.history[0].epoch == 0:
        untrained = state.history[0].scores
        best &= not any(is_better(untrained, scores, metric) for metric in plan.guard)
    if best:
        state.best_weights = trained_weights(model)
    unread = torch.tensor(source.count_unread(), device=trainable(model)[0].device)
    entry = EpochReport(
        epoch=state.epoch,
        train_loss=train_loss,
        scores=scores,
        seconds=time.perf_counter() - began,
        best=best,
        skipped=state.skipped,
        unread=int(sum_over_ranks(unread)),
    )
    state.skipped = 0
    state.history.append(entry)
    hooks.report(entry, state)
