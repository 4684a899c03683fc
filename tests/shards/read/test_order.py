from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from shards.read.order import epoch_plan, mixed_order


def test_a_mix_gives_each_data_set_its_share_of_an_epoch():
    order = mixed_order([10, 90], [0.7, 0.3], seed=0, epoch=0)
    assert len(order) == 100
    assert (order < 10).sum() == 70
    assert set(order[order < 10].tolist()) == set(range(10))


def test_no_sample_of_a_mix_is_far_ahead_of_another_over_the_epochs():
    counts = Counter()
    for epoch in range(5):
        counts.update(mixed_order([10, 90], [0.35, 0.65], seed=1, epoch=epoch).tolist())
    for positions in (range(10), range(10, 100)):
        seen = [counts[position] for position in positions]
        assert max(seen) - min(seen) <= 1


def test_a_mix_is_a_function_of_seed_and_epoch_for_any_number_of_ranks():
    options = {"num_samples": 20, "batch_size": 4, "parts": [5, 15], "mix": [0.5, 0.5]}
    one = epoch_plan(**options, epoch=2)
    two = [epoch_plan(**options, epoch=2, rank=rank, world_size=2) for rank in (0, 1)]
    np.testing.assert_array_equal(one.indices, np.concatenate([p.indices for p in two], axis=1))
    assert (one.indices != epoch_plan(**options, epoch=3).indices).any()


@pytest.mark.parametrize("mix", [[1.0], [0.5, 0.5, 0.5], [1.0, 0.0], [1.0, -1.0]])
def test_a_mix_that_does_not_fit_the_data_sets_is_refused(mix):
    with pytest.raises(ValueError, match="one share above 0 for each of 2 data sets"):
        mixed_order([5, 15], mix, seed=0, epoch=0)


def test_steps_start_anywhere_and_come_in_parts():
    plan = epoch_plan(num_samples=10, batch_size=4, shuffle=True, flip=True)
    steps = list(plan.steps(1, num_parts=2))
    assert [step.indices.tolist() for step in steps] == [
        part.tolist() for row in plan.indices[1:] for part in np.split(row, 2)
    ]
    assert steps[0].draws.shape == (2, 6)
