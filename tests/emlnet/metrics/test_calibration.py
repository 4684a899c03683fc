"""Coverage of densities whose regions are known."""

import numpy as np
import pytest

from emlnet.metrics.calibration import LEVELS, coverage


def test_fixations_drawn_from_a_density_are_covered_as_it_says():
    random = np.random.default_rng(0)
    density = random.random((40, 50)) ** 6
    density /= density.sum()
    pixels = random.choice(density.size, 40_000, p=density.ravel())
    fixations = np.bincount(pixels, minlength=density.size).reshape(density.shape)
    assert coverage(np.log(density), fixations) == pytest.approx(LEVELS, abs=0.01)


def test_a_uniform_density_covers_what_it_says_wherever_people_look():
    fixations = np.zeros((6, 8))
    fixations[0, 0] = 5
    assert coverage(np.full((6, 8), -np.log(48)), fixations) == pytest.approx(LEVELS)


def test_gaze_on_the_brightest_pixel_alone_is_inside_every_region():
    density = np.array([[0.4, 0.3], [0.2, 0.1]])
    fixations = np.array([[3, 0], [0, 0]])
    # The pixel holds the first 0.4 of the mass: at level 0.1 a quarter of it.
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]
    assert coverage(np.log(density), fixations) == pytest.approx(expected)


def test_gaze_where_the_density_is_lowest_is_in_no_region():
    density = np.array([[0.5, 0.3], [0.19, 0.01]])
    fixations = np.array([[0, 0], [0, 2]])
    assert coverage(np.log(density), fixations).tolist() == [0] * 9


def test_without_fixations_there_is_no_coverage():
    assert np.isnan(coverage(np.full((2, 2), np.log(0.25)), np.zeros((2, 2)))).all()
