"""Checks that losses and weights are finite."""

from __future__ import annotations

import torch
from torch import Tensor

from emlnet.training.distributed import sum_over_ranks
from emlnet.training.state import TrainState, trainable

ADVICE = "the last good checkpoint is kept. A lower lr or clip_norm may help"


class DivergedError(RuntimeError):
    """A loss, gradient or weight is not finite.

    epoch (from 0) and step (from 1) of the first such loss; None if unknown.
    """

    def __init__(self, message: str, epoch: int | None = None, step: int | None = None) -> None:
        super().__init__(message)
        self.epoch, self.step = epoch, step


def check_losses(state: TrainState, unchecked: list[Tensor], num_steps: int) -> Tensor:
    """Return the epoch's loss sums over all ranks, with the latest steps added.

    unchecked: this rank's loss sums (losses + 1,) of each of the latest steps.
    Raises DivergedError, on every rank, if a sum of any rank is not finite.
    """
    latest = sum_over_ranks(torch.stack(unchecked))
    finite = latest.isfinite().all(1)
    if not finite.all():
        step = state.step - len(unchecked) + int((~finite).nonzero()[0]) + 1
        raise _diverged("the loss is not finite at", state, step, num_steps)
    sums = latest.sum(0)
    return sums if state.loss_sums is None else state.loss_sums + sums


def check_weights(state: TrainState, num_steps: int) -> None:
    """Raise DivergedError for a weight that is not finite, such as after an overflow."""
    if not torch.stack([w.detach().sum() for w in trainable(state.model)]).isfinite().all():
        raise _diverged("weights are not finite after", state, state.step, num_steps)


def _diverged(what: str, state: TrainState, step: int, num_steps: int) -> DivergedError:
    where = f"step {step} of {num_steps} in epoch {state.epoch + 1}"
    return DivergedError(f"{what} {where}; {ADVICE}", state.epoch, step)
