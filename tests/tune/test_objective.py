"""What trials are compared by."""

from __future__ import annotations

import pytest

from tune.objective import direction, gain, halves, parse_objectives


def test_every_picture_of_val_is_tuned_on_or_reported_on_and_none_is_both():
    for number in (2, 3, 100, 5000):
        tuned, held_out = halves(number)
        assert sorted([*tuned, *held_out]) == list(range(number))
        assert 0 <= len(tuned) - len(held_out) <= 1


def test_the_halves_are_the_same_in_every_search():
    assert halves(50) == halves(50)


def test_one_picture_has_no_halves():
    with pytest.raises(ValueError, match="at least 2"):
        halves(1)


def test_less_is_better_by_kl_alone():
    assert {direction(name) for name in ("ig", "nss", "cc", "sim", "auc")} == {"max"}
    assert direction("kl") == "min"
    assert gain("kl", {"kl": 0.2}, {"kl": 0.5}) == pytest.approx(0.3)
    assert gain("ig", {"ig": 0.2}, {"ig": 0.5}) == pytest.approx(-0.3)


def test_objectives_are_one_metric_or_several():
    assert parse_objectives("ig") == ("ig",)
    assert parse_objectives("nss, kl") == ("nss", "kl")


@pytest.mark.parametrize("text", ["", "auc_judd", "nss,nss", "loss", "nss;kl"])
def test_what_is_no_metric_is_refused(text):
    with pytest.raises(ValueError, match="nss,cc,kl,sim,auc,ig"):
        parse_objectives(text)
