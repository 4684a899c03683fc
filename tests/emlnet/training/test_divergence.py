"""Trainings in which a loss or a weight is not finite."""

from __future__ import annotations

import math

import pytest
import torch

from emlnet.training.divergence import DivergedError
from emlnet.training.fit import fit, train_epoch
from emlnet.training.state import start
from tests.emlnet.training.small_training import Batches, Calls, plan, train


def with_a_nan(steps, at):
    """The steps, one picture of the one at `at`, from 1, full of NaN."""
    changed = list(steps)
    (image,), targets = steps[at - 1]
    image = image.clone()
    image[0] = math.nan
    changed[at - 1] = (image,), targets
    return changed


def test_a_loss_that_is_not_finite_stops_and_names_step_and_epoch(make_encoder, steps):
    class BadSecondEpoch(Batches):
        def train(self, epoch, start_step):
            return with_a_nan(steps, 2) if epoch == 1 else steps

    chosen = plan(epochs=3)
    state = start(make_encoder(), chosen, len(steps))
    with pytest.raises(DivergedError, match="not finite at step 2 of 3 in epoch 2") as caught:
        fit(state, chosen, BadSecondEpoch(steps))
    assert (caught.value.epoch, caught.value.step) == (1, 2)
    assert [entry.epoch for entry in state.history] == [1]
    assert state.best_weights
    assert all(value.isfinite().all() for value in state.best_weights.values())


def test_a_diverged_state_is_never_saved_within_an_epoch(make_encoder, steps):
    chosen, saved = plan(epochs=1, checkpoint_every=2), []

    def save(state):
        saved.append(all(p.isfinite().all() for p in state.model.parameters()))

    state = start(make_encoder(), chosen, 6)
    with pytest.raises(DivergedError, match="step 4 of 6"):
        train_epoch(state, chosen, Batches(with_a_nan(steps * 2, 4)), Calls(save=save))
    assert saved == [True]


@pytest.mark.parametrize("at", [2, 6])
def test_weights_that_overflow_in_the_very_step_of_a_checkpoint_are_not_kept(
    make_encoder, steps, at
):
    # The loss before the step is finite, the weights after it are not.
    chosen, kept = plan(epochs=2, checkpoint_every=2), []
    model = make_encoder()
    state = start(model, chosen, 6)

    def overflow(*_):
        if state.step == at - 1:
            for parameter in model.parameters():
                parameter.grad.fill_(math.nan)

    def keep(state):
        kept.append(all(p.isfinite().all() for p in state.model.parameters()))

    state.optimizer.register_step_pre_hook(overflow)
    with pytest.raises(DivergedError, match="epoch"):
        fit(
            state,
            chosen,
            Batches(steps * 2, steps),
            Calls(report=lambda entry, state: keep(state), save=keep),
        )
    assert all(kept)


def test_a_step_without_a_finite_gradient_is_left_out_and_counted(make_encoder, steps):
    chosen = plan(on_nan="skip", optimizer="sgd", schedule="step", epochs=1)
    model, other = make_encoder(), make_encoder()
    _, (report,) = train(model, chosen, with_a_nan(steps, at=2), val=steps)
    _, (rest,) = train(other, chosen, [step for step in steps if step is not steps[1]], val=steps)
    assert report.skipped == 1
    assert report.train_loss == rest.train_loss
    state = other.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_an_epoch_of_skipped_steps_alone_is_an_error(make_encoder, steps):
    chosen = plan(on_nan="skip")
    with pytest.raises(DivergedError, match="no step of epoch 1 had a finite gradient"):
        train(make_encoder(), chosen, with_a_nan(steps[:1], at=1), val=steps)
