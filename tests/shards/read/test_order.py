from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from shards.read.order import epoch_plan, mixed_order


def plans(world_size, **options):
    options = {"num_samples": 21, "batch_size": 8, "shuffle": True, "flip": True, **options}
    ranks = range(world_size)
    return [epoch_plan(rank=rank, world_size=world_size, **options) for rank in ranks]


def joined(world_size, **options):
    """The global batches, ranks side by side: indices, weights, flips."""
    parts = plans(world_size, **options)
    return [
        np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in ("indices", "weights", "flips")
    ]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_sample_has_weight_one_exactly_once(world_size):
    indices, weights, _ = joined(world_size)
    assert sorted(indices[weights == 1]) == list(range(21))
    assert set(weights.ravel()) == {0, 1}


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_any_number_of_ranks_reads_the_same_batches(world_size):
    for one, many in zip(joined(1, epoch=3), joined(world_size, epoch=3), strict=True):
        np.testing.assert_array_equal(one, many, strict=True)


@pytest.mark.parametrize(("num_samples", "num_filled"), [(21, 3), (16, 0), (3, 5)])
def test_the_last_batch_is_filled_from_the_start_of_the_order_with_weight_zero(
    num_samples, num_filled
):
    indices, weights, _ = joined(2, num_samples=num_samples)
    assert indices.shape == (-(-num_samples // 8), 8)
    np.testing.assert_array_equal(
        indices.ravel(), np.resize(indices.ravel()[:num_samples], indices.size)
    )
    assert weights.ravel().tolist() == [1] * num_samples + [0] * num_filled


def test_without_shuffle_the_order_is_the_splits_own():
    (plan,) = plans(1, shuffle=False, flip=False, num_samples=10, batch_size=4)
    assert plan.indices.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert not plan.flips.any()


def test_the_order_depends_on_seed_and_epoch_alone():
    orders = {
        (seed, epoch): tuple(joined(1, seed=seed, epoch=epoch)[0].ravel())
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert tuple(joined(1, seed=1, epoch=1)[0].ravel()) == orders[1, 1]


def test_flips_are_drawn_anew_each_epoch_and_are_about_half():
    first, second = (joined(1, num_samples=4000, epoch=epoch)[2] for epoch in (0, 1))
    assert 0.45 < first.mean() < 0.55
    assert (first != second).any()


def test_ranks_that_cannot_share_a_batch_equally_are_filled_up_with_weight_zero():
    whole, (indices, weights, _) = joined(1), joined(3)
    assert indices.shape == (3, 9)
    for step in range(3):
        shown = indices[step][weights[step] == 1]
        np.testing.assert_array_equal(shown, whole[0][step][whole[1][step] == 1])
    assert sorted(indices[weights == 1]) == list(range(21))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_size": 2, "world_size": 4}, "4 ranks cannot share a batch of 2"),
        ({"batch_size": 0}, "1 ranks cannot share a batch of 0"),
        ({"num_samples": 0}, "no samples for rank"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        epoch_plan(**{"num_samples": 4, "batch_size": 2, **options})


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
    with pytest.raises(ValueError, match=r"one positive share per data set \(2\)"):
        mixed_order([5, 15], mix, seed=0, epoch=0)


def test_steps_start_anywhere_and_come_in_parts():
    plan = epoch_plan(num_samples=10, batch_size=4, shuffle=True, flip=True)
    steps = list(plan.steps(1, num_parts=2))
    assert [step.indices.tolist() for step in steps] == [
        part.tolist() for row in plan.indices[1:] for part in np.split(row, 2)
    ]
    assert steps[0].draws.shape == (2, 6)
