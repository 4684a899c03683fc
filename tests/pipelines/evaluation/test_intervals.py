"""Means, standard errors and bootstrap intervals with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.evaluation.intervals import estimate


def test_mean_and_standard_error_are_the_textbook_ones() -> None:
    found = estimate(np.array([1.0, 2.0, 4.0]))
    assert found.mean == pytest.approx(7 / 3)
    assert found.se == pytest.approx(np.std([1, 2, 4], ddof=1) / math.sqrt(3))
    assert found.num == 3


def test_the_interval_of_a_normal_sample_is_about_two_standard_errors_wide() -> None:
    found = estimate(np.random.default_rng(1).normal(5, 2, size=400))
    assert found.low == pytest.approx(found.mean - 1.96 * found.se, abs=0.03)
    assert found.high == pytest.approx(found.mean + 1.96 * found.se, abs=0.03)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    samples = np.random.default_rng(2).exponential(1, size=(500, 60))
    held = [found.low <= 1 <= found.high for found in map(estimate, samples)]
    assert 0.90 <= np.mean(held) <= 0.98


def test_equal_values_have_equal_intervals() -> None:
    values = np.random.default_rng(3).random(30)
    assert estimate(values) == estimate(values.copy())


def test_images_without_a_value_are_left_out_of_the_mean() -> None:
    found, none = estimate(np.array([1.0, np.nan, 3.0])), estimate(np.full(3, np.nan))
    assert (found.mean, found.num) == (2, 2)
    assert (none.num, math.isnan(none.mean), math.isnan(none.low)) == (0, True, True)


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = estimate(np.full(20, 0.5))
    assert (found.low, found.high, found.se) == (0.5, 0.5, 0)


def test_one_image_has_a_mean_and_no_standard_error() -> None:
    found = estimate(np.array([2.0]))
    assert (found.mean, found.low, found.high) == (2, 2, 2)
    assert math.isnan(found.se)


def test_minus_infinity_at_one_image_is_the_mean_and_the_low_end() -> None:
    found = estimate(np.array([1.0, -np.inf, 1.0, 1.0, 1.0]))
    assert (found.mean, found.low, found.high) == (-np.inf, -np.inf, 1)
