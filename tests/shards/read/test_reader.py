from __future__ import annotations

import numpy as np
import pytest

from shards.build.writer import build
from shards.read.order import epoch_plan
from shards.read.reader import ShardReader


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


def test_every_rank_has_equally_many_steps():
    assert {plan.indices.shape for plan in plans(4)} == {(3, 2)}


def test_the_last_batch_is_filled_from_the_start_of_the_order_with_weight_zero():
    indices, weights, _ = joined(2)
    np.testing.assert_array_equal(indices.ravel()[21:], indices.ravel()[:3])
    assert weights.ravel()[21:].tolist() == [0, 0, 0]
    assert weights.ravel()[:21].all()


def test_fewer_samples_than_a_batch_are_repeated():
    indices, weights, _ = joined(2, num_samples=3)
    assert indices.shape == (1, 8)
    np.testing.assert_array_equal(indices[0], np.resize(indices[0, :3], 8))
    assert weights[0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_a_full_last_batch_needs_no_filling():
    indices, weights, _ = joined(1, num_samples=16)
    assert indices.shape == (2, 8)
    assert weights.all()


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


@pytest.mark.parametrize(("batch_size", "world_size"), [(2, 4), (0, 1)])
def test_a_batch_smaller_than_the_number_of_ranks_is_refused(batch_size, world_size):
    with pytest.raises(
        ValueError, match=f"{world_size} ranks cannot share a batch of {batch_size}"
    ):
        plans(world_size, batch_size=batch_size)


def test_no_samples_or_no_such_rank_is_refused():
    with pytest.raises(ValueError, match="no samples for rank"):
        epoch_plan(num_samples=0, batch_size=2)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        epoch_plan(num_samples=4, batch_size=2, rank=2, world_size=2)


def test_samples_are_read_by_position(packed, tiny):
    reader = ShardReader(packed, "train")
    assert len(reader) == 7
    assert reader.keys == tuple(f"train/t{index}" for index in range(7))
    for position in (6, 0, 3):
        sample = reader.sample(position)
        assert sample.key == reader.keys[position]
        assert sample.image == (tiny.path / f"images/train/t{position}.jpg").read_bytes()
    assert reader.sample(2).points.tolist() == [[2, 0], [39, 27], [2, 0]]
    assert reader.sample(2).observers.tolist() == [0, 0, 2]
    assert reader.decoded(2).image.shape == (30, 40, 3)


def test_an_unknown_split_names_those_there_are(packed):
    with pytest.raises(ValueError, match="no split 'dev'; it has train, val"):
        ShardReader(packed, "dev")


def test_a_changed_byte_names_shard_and_sample(packed, change_byte):
    reader = ShardReader(packed, "train")
    change_byte(packed / "train-000001.tar", reader.entries[4].offset + 700)
    reader.sample(3)
    with pytest.raises(ValueError, match=r"train-000001\.tar has changed: .* train/t4 differs"):
        reader.sample(4)


def test_a_shard_cut_while_it_is_read_names_shard_and_sample(packed):
    reader = ShardReader(packed, "train")
    path = packed / "train-000001.tar"
    path.write_bytes(path.read_bytes()[: reader.entries[5].offset + 100])
    with pytest.raises(ValueError, match=r"train-000001\.tar is cut: sample train/t5 has 100 of"):
        reader.sample(5)


def test_a_folder_that_is_half_written_cannot_be_read(tiny, tmp_path):
    build(tiny.path, tmp_path / "packed", progress=False)
    (tmp_path / "packed/manifest.json").rename(tmp_path / "packed/manifest.json.tmp")
    with pytest.raises(ValueError, match="no finished data set"):
        ShardReader(tmp_path / "packed", "train")


def test_a_subset_reads_its_samples_alone(packed):
    whole = ShardReader(packed, "train")
    assert whole.keys  # kept from here on: the subset has its own
    part = whole.subset([2, 0])
    assert len(part) == 2
    assert part.keys == (whole.keys[2], whole.keys[0])
    assert part.sample(0).key == whole.keys[2]
    assert len(whole) == len(whole.keys) > 2
