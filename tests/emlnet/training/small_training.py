"""A small training, for tests."""

from __future__ import annotations

from emlnet.losses.weighted import LossWeights
from emlnet.training.fit import fit
from emlnet.training.state import Plan, start

WEIGHTS = LossWeights(kl=1, cc=1, nss=1, sim=1, mse=1)


def plan(**changes):
    options = {"epochs": 2, "batch_size": 2, "lr": 0.01, "loss_weights": WEIGHTS, **changes}
    return Plan(**options)


def train(model, plan, steps, val=None):
    """Trains on the same steps each epoch; the state and what was reported."""
    reports = []
    state = fit(
        start(model, plan, len(steps)),
        plan,
        lambda epoch, start_step: steps[start_step:],
        lambda: steps if val is None else val,
        lambda entry, state: reports.append(entry),
    )
    return state, reports
