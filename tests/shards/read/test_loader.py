from __future__ import annotations

import dataclasses

import pytest
import torch

from emlnet.data.augment import Augmentation
from emlnet.data.batches import prepare_image, prepare_targets
from shards.read.loader import ErrorPolicy, Loader
from shards.read.reader import ShardReader
from tests.shards.conftest import Raw, pack

FLIP = Augmentation(flip=True)


@pytest.fixture
def reader(packed):
    return ShardReader(packed, "train")


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for field in dataclasses.fields(batch):
            one, two = getattr(batch, field.name), getattr(other, field.name)
            same = torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
            assert same, field.name


def test_an_epoch_is_the_plan_made_of_batches(reader):
    loader = Loader(reader, 4, shuffle=True, augmentation=FLIP, seed=2)
    batches = list(loader.epoch(5))
    plan = loader.plan(5)
    assert loader.num_steps == len(batches) == 2
    for batch, indices, weights, flips in zip(
        batches, plan.indices, plan.weights, plan.flips, strict=True
    ):
        assert batch.keys == tuple(reader.keys[index] for index in indices)
        assert batch.weight.tolist() == weights.tolist()
        assert batch.flip.tolist() == flips.tolist()
        assert batch.image.shape == (4 * 30 * 40 * 3,)
        assert batch.image.dtype == batch.density.dtype == torch.uint8


def test_ranks_together_read_what_one_reads(reader):
    (whole,) = [list(Loader(reader, 4, shuffle=True).epoch(1))]
    parts = [list(Loader(reader, 4, rank=r, world_size=2, shuffle=True).epoch(1)) for r in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch.keys == first.keys + second.keys
        assert torch.equal(batch.image, torch.cat([first.image, second.image]))


def test_an_epoch_resumes_at_the_next_step(reader):
    loader = Loader(reader, 2, shuffle=True, augmentation=FLIP)
    assert_equal(list(loader.epoch(3))[2:], list(loader.epoch(3, start_step=2)))
    assert list(loader.epoch(3, start_step=loader.num_steps)) == []


def test_validation_reads_the_split_in_order_without_augmentation(reader):
    (batch,) = Loader(reader, 7).epoch(0)
    assert batch.keys == reader.keys
    assert {view.part for view in batch.views} == {(0, 0, 30, 40)}
    assert batch.colour is None
    assert not batch.flip.any()


def test_threads_give_the_same_batches_epoch_after_epoch(reader):
    alone = Loader(reader, 2, shuffle=True, augmentation=FLIP)
    helped = Loader(reader, 2, shuffle=True, augmentation=FLIP, num_workers=2)
    assert_equal(list(alone.epoch(0)), list(helped.epoch(0)))
    next(helped.epoch(1))  # An epoch that is left early must not leak into the next one.
    assert_equal(list(alone.epoch(2, 1)), list(helped.epoch(2, 1)))


def test_an_error_in_a_thread_names_the_sample(packed, reader, change_byte):
    change_byte(packed / "train-000000.tar", reader.entries[1].offset + 700)
    with pytest.raises(ValueError, match="the checksum of sample train/t1 differs"):
        list(Loader(reader, 2, num_workers=1).epoch(0))


def test_reading_leaves_torchs_random_state_alone(reader):
    before = torch.get_rng_state()
    list(Loader(reader, 2, shuffle=True, augmentation=FLIP).epoch(0))
    assert torch.equal(before, torch.get_rng_state())


def test_mixed_sizes_are_refused_early_naming_two_samples(raw, tmp_path):
    raw.add("train/a")
    raw.add("train/b", size=(60, 80))
    pack(raw.path, tmp_path / "packed")
    reader = ShardReader(tmp_path / "packed", "train")
    with pytest.raises(ValueError, match=r"train/a is \(30, 40\), train/b is \(60, 80\)"):
        Loader(reader, 2)
    assert [batch.canvas for batch in Loader(reader, 1).epoch(0)] == [(30, 40), (60, 80)]
    Loader(reader, 2, rank=1, world_size=2)


def test_a_share_comes_in_parts_of_at_most_the_micro_batch(reader):
    whole, parts = Loader(reader, 4, shuffle=True), Loader(reader, 4, shuffle=True, micro_batch=3)
    assert (whole.num_parts, parts.num_parts, parts.num_steps) == (1, 2, whole.num_steps)
    read = list(parts.epoch(0, 1))
    assert [len(batch.keys) for batch in read[:2]] == [2, 2]
    for step, batch in enumerate(whole.epoch(0, 1)):
        assert read[2 * step].keys + read[2 * step + 1].keys == batch.keys


def test_skip_leaves_out_counts_and_logs_and_keeps_every_place(packed, reader, change_byte, caplog):
    change_byte(packed / "train-000000.tar", reader.entries[1].offset + 700)
    loader = Loader(reader, 3, errors=ErrorPolicy(on_error="skip", max_skipped=0.2))
    batches = list(loader.epoch(0))
    assert [batch.weight.tolist() for batch in batches] == [[1, 0, 1], [1, 1, 1], [1, 0, 0]]
    _, broken, spare = batches[0].image.view(3, -1)
    assert torch.equal(broken, spare)
    assert (loader.skipped, loader.num_unread) == ({1}, 1)
    assert "train-000000.tar has changed: the checksum of sample train/t1" in caplog.text
    assert "1 of 7 samples could not be read" in caplog.text
    assert len(list(loader.epoch(1))) == 3
    assert len(caplog.records) == loader.num_unread == 1


def test_samples_of_one_name_in_two_data_sets_are_skipped_each(packed, reader, change_byte):
    change_byte(packed / "train-000000.tar", reader.entries[1].offset + 700)
    loader = Loader(
        ShardReader([packed, packed], "train"),
        2,
        errors=ErrorPolicy(on_error="skip", max_skipped=0.2),
    )
    list(loader.epoch(0))
    assert (loader.skipped, loader.num_unread) == ({1, 8}, 2)


def test_more_than_the_stated_share_stops(packed, reader):
    (packed / "train-000001.tar").unlink()
    loader = Loader(reader, 3, errors=ErrorPolicy(on_error="skip", max_skipped=0.2))
    with pytest.raises(ValueError, match=r"2 of 7 samples could not be read, more than the 20\.0%"):
        list(loader.epoch(0))


def test_a_batch_of_broken_samples_is_blank_and_weighs_nothing(packed, reader):
    (packed / "train-000001.tar").unlink()
    loader = Loader(reader, 1, errors=ErrorPolicy(on_error="skip", max_skipped=0.9))
    batches = list(loader.epoch(0))
    assert [batch.weight.item() for batch in batches] == [1, 1, 1, 0, 0, 0, 1]
    assert not batches[3].image.any()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_mixed_sizes_share_a_canvas(raw, tmp_path, num_workers):
    raw.add("train/a")
    raw.add("train/b", size=(60, 40))
    pack(raw.path, tmp_path / "packed")
    loader = Loader(
        ShardReader(tmp_path / "packed", "train"), 2, canvas=(30, 40), num_workers=num_workers
    )
    (batch,) = loader.epoch(0)
    targets = prepare_targets(batch)
    assert prepare_image(batch).shape == (2, 3, 30, 40)
    assert [frame.height * frame.width for frame in targets.frames] == [1200, 600]


def test_crops_and_colours_are_drawn_anew_each_epoch_for_any_number_of_ranks(reader):
    augmentation = Augmentation(crop=0.5, colour=0.5)
    options = {"shuffle": True, "augmentation": augmentation}
    first, again, second = (list(Loader(reader, 2, **options).epoch(e)) for e in (0, 0, 1))
    assert_equal(first, again)
    assert [b.views for b in first] != [b.views for b in second]
    ranks = [list(Loader(reader, 2, rank=r, world_size=2, **options).epoch(0)) for r in (0, 1)]
    for whole, *parts in zip(first, *ranks, strict=True):
        assert whole.views == parts[0].views + parts[1].views
        assert torch.equal(whole.colour, torch.cat([part.colour for part in parts]))


def test_several_data_sets_are_read_as_one_in_their_shares(packed, tmp_path):
    other = Raw(tmp_path / "other-raw")
    for stem in ("train/x", "train/y"):
        other.add(stem)
    pack(other.path, tmp_path / "other")
    joint = ShardReader([packed, tmp_path / "other"], "train")
    assert joint.keys == (*(f"train/t{number}" for number in range(7)), "train/x", "train/y")
    assert joint.parts == (7, 2)
    assert joint.sample(8).key == "train/y"
    loader = Loader(joint, 3, shuffle=True, mix=(0.5, 0.5))
    keys = [key for batch in loader.epoch(0) for key in batch.keys]
    assert len(keys) == 9
    assert sum(key in ("train/x", "train/y") for key in keys) in (4, 5)
