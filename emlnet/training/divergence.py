"""What is done about losses, gradients and weights that are no longer finite numbers."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor, nn

from emlnet.training.distributed import sum_over_ranks
from emlnet.training.state import TrainState, trainable

ADVICE = "the last good checkpoint is kept. A lower lr or clip_norm may help"


class DivergedError(RuntimeError):
    """The loss is no longer a finite number.

    epoch: from 0, and step: from 1, of the first such loss, where known.
    """

    def __init__(self, message: str, epoch: int | None = None, step: int | None = None) -> None:
        super().__init__(message)
        self.epoch, self.step = epoch, step


def add_checked(state: TrainState, unchecked: list[Tensor], num_steps: int) -> Tensor:
    """The epoch's sums with those of its latest steps.

    unchecked: (terms + 2,) of each step, of this rank's images.  Raises DivergedError on every rank
    when one of any rank is not finite.
    """
    latest = sum_over_ranks(torch.stack(unchecked))
    finite = latest.isfinite().all(1)
    if not finite.all():
        step = state.step - len(unchecked) + int((~finite).nonzero()[0]) + 1
        _stop("the loss is not finite at", state, step, num_steps)
    sums = latest.sum(0)
    return sums if state.loss_sums is None else state.loss_sums + sums


def check_weights(state: TrainState, num_steps: int) -> None:
    """A finite loss can still have had a gradient that is not: such weights are not kept."""
    if not torch.stack([w.detach().sum() for w in trainable(state.model)]).isfinite().all():
        _stop("weights are not finite after", state, state.step, num_steps)


def _stop(what: str, state: TrainState, step: int, num_steps: int) -> NoReturn:
    raise DivergedError(
        f"{what} step {step} of {num_steps} in epoch {state.epoch + 1}; {ADVICE}",
        state.epoch,
        step,
    )


class Skipper:
    """Leaves out steps whose gradient is not finite, as if they had not been; it reads the device.

    With DistributedDataParallel gradients are equal on all ranks, and so is what is left out.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.buffers = [buffer.clone() for buffer in model.buffers()]

    def skips(self, norm: Tensor) -> bool:
        """Whether to leave this step out, by its gradient's norm; BatchNorm then forgets it too."""
        if norm.isfinite():
            self.buffers = [buffer.clone() for buffer in self.model.buffers()]
            return False
        for buffer, before in zip(self.model.buffers(), self.buffers, strict=True):
            buffer.copy_(before)
        return True
