"""Baselines whose maps are known."""

import numpy as np
import pytest
import torch

from emlnet.data import maps
from emlnet.metrics import baselines


def _scattered(seed, num=150, size=(120, 160)):
    random = np.random.RandomState(seed)
    counts = torch.zeros(2, 1, *size)
    for image in range(2):
        y, x = random.randint(0, size[0], num), random.randint(0, size[1], num)
        counts[image, 0].index_put_(
            (torch.tensor(y), torch.tensor(x)), torch.ones(num), accumulate=True
        )
    return counts


@pytest.mark.parametrize("sigma", [3, 7.5, 19])
def test_the_sigma_of_a_blur_is_found_again(sigma):
    counts = _scattered(0)
    density = (maps.density_map(counts, sigma) * 1e5).round()
    assert baselines.estimate_sigma(counts, density) == pytest.approx(sigma, rel=0.02)


def test_constant_density_maps_tell_nothing_of_a_blur():
    counts = _scattered(0)
    density = maps.density_map(counts, 7.5)
    density[0] = 1
    assert baselines.estimate_sigma(counts, density) == pytest.approx(7.5, rel=0.02)
    with pytest.raises(ValueError, match="constant: they show no blur"):
        baselines.estimate_sigma(counts[:1], density[:1])


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
