"""Means, standard errors and bootstrap intervals with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluation.intervals import estimate


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    samples = np.random.default_rng(2).exponential(1, size=(500, 60))
    held = [found.low <= 1 <= found.high for found in map(estimate, samples)]
    assert 0.90 <= np.mean(held) <= 0.98


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 4.0], (7 / 3, np.std([1, 2, 4], ddof=1) / np.sqrt(3), 1.0, 4.0, 3)),
        ([1.0, NAN, 3.0], (2.0, 1.0, 1.0, 3.0, 2)),
        ([0.5] * 20, (0.5, 0.0, 0.5, 0.5, 20)),
        ([2.0], (2.0, NAN, 2.0, 2.0, 1)),
        ([NAN] * 3, (NAN, NAN, NAN, NAN, 0)),
        ([1.0, -INF, 1.0, 1.0, 1.0], (-INF, NAN, -INF, 1.0, 5)),
    ],
)
def test_mean_standard_error_interval_and_number_of_the_images_with_a_value(
    values: list[float], expected: tuple[float, ...]
) -> None:
    found = estimate(np.array(values))
    given = (found.mean, found.se, found.low, found.high, found.num)
    assert given == pytest.approx(expected, nan_ok=True)
