"""The search space: weights from numbers that a sampler draws."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from emlnet.losses.weighted import LossWeights
from emlnet.training.state import Plan
from tune.space import BASELINE_WEIGHTS, TOTAL, Space, short


def draw(space: Space, number: int, seed: int = 0) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    ranges = space.ranges()
    return [{n: rng.uniform(*ends) for n, ends in ranges.items()} for _ in range(number)]


@pytest.mark.parametrize("space", [Space(), Space(extra_terms=("sim", "mse")), Space(min_share=0)])
def test_weights_sum_to_the_same_number_everywhere(space):
    for point in draw(space, 200):
        weights = asdict(space.weights(point))
        assert sum(weights.values()) == pytest.approx(TOTAL, abs=5e-4)
        assert all(value == 0 for term, value in weights.items() if term not in space.terms)


def test_a_term_may_weigh_nothing_and_none_weighs_less_than_its_least_share():
    space = Space(min_share=0.05)
    values = np.array([list(asdict(space.weights(p)).values())[:3] for p in draw(space, 500)])
    share = (values == 0).any(1).mean()
    # The chance that all of 3 even shares are at least a is (1 - 3 a) ** 2.
    assert share == pytest.approx(1 - 0.85**2, abs=0.06)
    assert values[values > 0].min() >= 0.05 * TOTAL


def test_shares_are_even_over_all_there_are():
    space = Space(min_share=0)
    shares = np.array([list(asdict(space.weights(p)).values())[:3] for p in draw(space, 4000)])
    shares /= TOTAL
    assert shares.mean(0) == pytest.approx([1 / 3] * 3, abs=0.02)
    assert shares.var(0) == pytest.approx([1 / 18] * 3, abs=0.005)


@pytest.mark.parametrize(
    "weights",
    [BASELINE_WEIGHTS, LossWeights(kl=2, cc=0.75, nss=0.25), LossWeights(kl=0, cc=0, nss=3)],
    ids=short,
)
@pytest.mark.parametrize("scale", [0.1, 1, 50])
def test_a_point_of_weights_of_any_scale_gives_their_ratios(weights, scale):
    scaled = LossWeights(**{term: scale * value for term, value in asdict(weights).items()})
    space = Space()
    assert space.weights(space.point(scaled)) == weights


def test_a_point_changes_the_loss_weights_of_a_plan_and_nothing_else():
    space, plan = Space(), Plan(epochs=7, lr=0.5, loss_weights=LossWeights(mse=1))
    weights = LossWeights(kl=2, cc=1, nss=0)
    assert space.plan(space.point(weights), plan) == replace(plan, loss_weights=weights)
    assert space.weights(dict.fromkeys(("kl", "cc", "nss"), 0.0)) == BASELINE_WEIGHTS


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"min_share": 0.4}, "3 terms cannot each"),
        ({"min_share": -0.1}, "at least 0"),
        ({"extra_terms": ("sim", "sim")}, "once"),
    ],
)
def test_a_space_that_cannot_be_is_refused(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        Space(**wrong)


def test_the_space_excludes_small_shares_and_terms_that_it_does_not_weigh():
    space = Space(min_share=0.1)
    assert space.excluded(BASELINE_WEIGHTS) == {}
    assert space.excluded(LossWeights(kl=18, cc=1, nss=1)) == {"cc": 0.05, "nss": 0.05}
    assert space.excluded(LossWeights(kl=1, cc=1, nss=1, sim=1)) == {"sim": 0.25}


def test_a_width_that_is_not_changed_is_as_given():
    space = Space(also=("width",))
    assert space.width(space.point(BASELINE_WEIGHTS), 30) == 30
    assert space.width({"width": 0.5}, 30) == 16


def test_short_weights_are_those_that_a_command_reads():
    weights = LossWeights(kl=1.2345, cc=0, nss=1.7655)
    assert short(weights) == "kl=1.2345,nss=1.7655"
    assert LossWeights.parse(short(weights)) == weights
