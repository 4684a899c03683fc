"""Objectives, and the halves of val."""

from __future__ import annotations

import pytest

from tune.objective import direction, halves, parse_objectives


@pytest.mark.parametrize("number", [2, 3, 100, 5000])
def test_every_picture_of_val_is_in_one_half_the_same_in_every_search(number):
    tuned, held_out = halves(number)
    assert sorted([*tuned, *held_out]) == list(range(number))
    assert 0 <= len(tuned) - len(held_out) <= 1
    assert halves(number) == (tuned, held_out)


def test_one_picture_has_no_halves():
    with pytest.raises(ValueError, match="at least 2"):
        halves(1)


def test_objectives_are_one_metric_or_several_and_less_is_better_by_kl():
    assert parse_objectives("ig") == ("ig",)
    assert [direction(name) for name in parse_objectives("nss, kl")] == ["max", "min"]


@pytest.mark.parametrize("text", ["", "auc_judd", "nss,nss", "loss", "nss;kl"])
def test_a_text_that_names_no_metric_is_refused(text):
    with pytest.raises(ValueError, match="nss,cc,kl,sim,auc,ig"):
        parse_objectives(text)
