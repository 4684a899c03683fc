"""A small training, for tests."""

from __future__ import annotations

from emlnet.losses import LossWeights
from emlnet.training.fit import BatchSource, Hooks, fit
from emlnet.training.state import Plan, start

WEIGHTS = LossWeights(kl=1, cc=1, nss=1, sim=1, mse=1)


class Batches(BatchSource):
    """The same batches each epoch, to train and, unless others are given, to validate."""

    def __init__(self, batches, val=None, batches_per_step=1):
        self.batches, self.val_batches = batches, batches if val is None else val
        self.batches_per_step = batches_per_step
        self.steps_per_epoch = len(batches) // batches_per_step

    def train(self, epoch, start_step):
        return self.batches[start_step * self.batches_per_step :]

    def val(self):
        return self.val_batches


class Calls(Hooks):
    """Hooks that are plain functions: Calls(save=..., progress=...)."""

    def __init__(self, **functions):
        vars(self).update(functions)


def plan(**changes):
    options = {"epochs": 2, "batch_size": 2, "lr": 0.01, "loss_weights": WEIGHTS, **changes}
    return Plan(**options)


def train(model, plan, steps, val=None):
    """Trains on the same steps each epoch; the state and what was reported."""
    state = fit(start(model, plan, len(steps)), plan, Batches(steps, val))
    return state, state.history
