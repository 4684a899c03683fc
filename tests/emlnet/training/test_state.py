"""Plans, learning rates, and which epoch is better."""

from __future__ import annotations

import math

import pytest

from emlnet.training.fit import fit
from emlnet.training.state import Plan, is_better, parameter_groups, start
from tests.emlnet.training.small_training import Batches


@pytest.mark.parametrize(
    ("metric", "first", "second", "answer"),
    [
        ("kl", 0.3, 0.4, True),
        ("kl", 0.4, 0.3, False),
        ("nss", 2.0, 1.0, True),
        ("nss", 1.0, 2.0, False),
        ("auc_judd", 0.9, 0.8, True),
        ("cc", 0.5, 0.5, False),
        ("kl", math.nan, 0.3, False),
        ("nss", math.nan, math.nan, False),
        ("kl", 0.3, math.nan, True),
    ],
)
def test_better_knows_each_metrics_direction(metric, first, second, answer):
    assert is_better({metric: first}, {metric: second}, metric) is answer


def test_parts_of_an_encoder_learn_at_rates_of_their_own(make_encoder):
    model = make_encoder()
    groups = parameter_groups(model, Plan(lr=0.1, backbone_lr=0.5, readout_lr=2))
    assert {group["name"]: group["lr"] for group in groups} == {
        "backbone": 0.05,
        "readout": 0.2,
        "head": 0.1,
    }
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_one_cycle_learning_rate_rises_and_ends_near_zero(make_encoder, steps):
    chosen, rates = Plan(epochs=3, batch_size=2, lr=0.01, warmup=0.5), []
    state = start(make_encoder(), chosen, len(steps))
    state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[-1]["lr"])
    )
    fit(state, chosen, Batches(steps))
    assert len(rates) == 9
    assert rates[0] == pytest.approx(0.01 / 25)
    assert max(rates) == pytest.approx(0.01, rel=0.1)
    assert rates[-1] < 1e-6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("lr", 0.0),
        ("warmup", 1.0),
        ("warmup", -0.1),
        ("step_epochs", 0),
        ("clip_norm", -1.0),
        ("clip_norm", math.nan),
        ("ema", 1.0),
        ("crop", 1.0),
    ],
)
def test_a_plan_with_a_number_that_means_nothing_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} .* not {value}"):
        Plan(**{name: value})


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 5), (5, 1), (1, 1), (1, 2)])
def test_a_learning_rate_exists_however_few_the_steps(make_encoder, epochs, steps_per_epoch):
    chosen = Plan(epochs=epochs, lr=1e-2)
    state = start(make_encoder(), chosen, steps_per_epoch)
    rates = []
    for _ in range(epochs * steps_per_epoch):
        rates.append(max(group["lr"] for group in state.optimizer.param_groups))
        state.optimizer.step()
        state.schedule.step()
    assert all(math.isfinite(rate) and rate > 0 for rate in rates)
    assert max(rates) <= chosen.lr * chosen.readout_lr * (1 + 1e-6)
