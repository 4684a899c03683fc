"""Baselines whose maps are known."""

import numpy as np
import pytest

from emlnet.metrics import baselines


def test_a_uniform_density_sums_to_one():
    log_density = baselines.uniform((6, 8))
    assert log_density.exp().sum().item() == pytest.approx(1)
    assert log_density.unique().numel() == 1


def test_a_centre_prior_is_a_density_that_is_zero_nowhere():
    prior = np.zeros((12, 16), np.float32)
    prior[6, 8] = 1
    density = baselines.centre_prior(prior, (12, 16)).exp()
    assert density.sum().item() == pytest.approx(1, abs=1e-6)
    assert density.min().item() == pytest.approx(0.01 / 192, rel=1e-5)
    assert density[0, 0, 6, 8].item() == pytest.approx(0.99 + 0.01 / 192, rel=1e-5)


def test_halves_of_observers_share_no_observer_and_depend_on_the_seed_alone():
    observers = np.repeat(np.arange(15, dtype=np.int32), 4)
    first = baselines.first_half(observers, seed=3)
    seen, unseen = set(observers[first]), set(observers[~first])
    assert (len(seen), len(unseen)) == (7, 8)
    assert not seen & unseen
    assert np.array_equal(first, baselines.first_half(observers, seed=3))
    assert not np.array_equal(first, baselines.first_half(observers, seed=4))


def test_one_observer_has_no_halves():
    assert not baselines.first_half(np.zeros(9, np.int32), seed=0).any()
