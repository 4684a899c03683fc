from __future__ import annotations

import pytest

from shards.read.reader import ShardReader


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
    with pytest.raises(
        ValueError, match=r"train-000001\.tar is truncated: sample train/t5 has 100 of"
    ):
        reader.sample(5)


def test_a_subset_reads_its_samples_alone(packed):
    whole = ShardReader(packed, "train")
    assert whole.keys  # kept from here on: the subset has its own
    part = whole.subset([2, 0])
    assert len(part) == 2
    assert part.keys == (whole.keys[2], whole.keys[0])
    assert part.sample(0).key == whole.keys[2]
    assert len(whole) == len(whole.keys) > 2
