from __future__ import annotations

import shutil

import numpy as np
import pytest
import webdataset as wds

from shards.files.manifest import Manifest
from shards.inspect.verify import verify
from shards.read.reader import ShardReader
from tests.shards.conftest import content, encode_png, pack, pack_tiny


def test_a_build_holds_every_sample_in_numbered_shards(tiny, out):
    manifest = pack_tiny(tiny, out)
    shards = [f"train-{number:06d}.tar" for number in range(3)]
    assert sorted(content(out)) == ["centre-train.npy", "manifest.json", *shards, "val-000000.tar"]
    assert [shard.num_samples for shard in manifest.splits["train"].shards] == [3, 3, 1]
    assert [entry.key for entry in manifest.splits["val"].samples] == ["val/v0", "val/v1"]
    assert manifest.name == "raw"
    assert manifest == Manifest.load(out) == verify(out, full=True)


def test_the_same_input_and_a_copy_of_it_give_the_same_bytes(tiny, tmp_path):
    pack_tiny(tiny, tmp_path / "one")
    pack_tiny(tiny, tmp_path / "two")
    first = content(tmp_path / "one")
    assert first == content(tmp_path / "two")
    shutil.copytree(tiny.path, tmp_path / "copy", copy_function=shutil.copyfile)
    copied = pack(tmp_path / "copy", tmp_path / "three", shard_size=3)
    assert copied.digest == Manifest.load(tmp_path / "one").digest
    assert {**content(tmp_path / "three"), "manifest.json": first["manifest.json"]} == first


def test_a_changed_pixel_changes_the_digest(tiny, tmp_path):
    first = pack_tiny(tiny, tmp_path / "one")
    tiny.add("val/v1", seed=9)
    assert pack_tiny(tiny, tmp_path / "two").digest != first.digest


def test_plain_webdataset_reads_the_shards(tiny, out):
    pack_tiny(tiny, out)
    urls = [str(path) for path in sorted(out.glob("train-*.tar"))]
    records = list(wds.WebDataset(urls, shardshuffle=False))
    assert [record["__key__"] for record in records] == [f"t{index}" for index in range(7)]
    assert records[0]["jpg"] == (tiny.path / "images/train/t0.jpg").read_bytes()


def test_what_was_dropped_is_counted(tiny, out):
    tiny.add("train/t0", [[[1, 1], [41, 1], [1, 31]], np.empty((0, 2))])
    dropped = pack_tiny(tiny, out).dropped
    assert (dropped.points_outside, dropped.empty_observers) == (2, 7)


def test_the_centre_prior_is_the_mean_of_trains_densities_at_the_size_of_the_first(raw, out):
    for index, value in enumerate((1, 100)):
        raw.add(f"train/{index}")
        pixels = np.zeros((30, 40), np.uint8)
        pixels[0, index] = value
        raw.put(f"maps/train/{index}.png", encode_png(pixels))
    raw.add("val/v")
    prior = pack(raw.path, out).centre_prior(out)
    expected = np.zeros((30, 40), np.float32)
    expected[0, :2] = 0.5
    np.testing.assert_array_equal(prior, expected, strict=True)
    raw.add("train/large", size=(60, 80))
    manifest = pack(raw.path, out.with_name("mixed"))
    prior = manifest.centre_prior(out.with_name("mixed"))
    assert prior.shape == (30, 40)
    assert prior.sum() == pytest.approx(1, abs=1e-5)
    assert set(ShardReader(out.with_name("mixed"), "train").sizes) == {(30, 40), (60, 80)}


def test_without_train_there_is_no_centre_prior(tiny, out):
    manifest = pack_tiny(tiny, out, splits=("val",))
    assert sorted(content(out)) == ["manifest.json", "val-000000.tar"]
    with pytest.raises(ValueError, match="no train split"):
        verify(out).centre_prior(out)
    assert manifest.centre_prior_sha256 is None


def test_every_incomplete_sample_is_counted_and_nothing_is_left(tiny, out):
    tiny.put("images/train/t2.jpg", b"\xff\xd8\xff nothing")
    tiny.put("images/val/v1.jpg", b"\xff\xd8\xff nothing")
    tiny.add("train/t4", [np.empty((0, 2))])
    with pytest.raises(ValueError, match="pass --skip-incomplete") as error:
        pack_tiny(tiny, out)
    assert "2 of 9 images cannot be used (first: images/train/t2.jpg" in str(error.value)
    assert "1 of 9 images have no fixations (first: fixations/train/t4.mat)" in str(error.value)
    assert not out.exists()


def test_a_missing_file_stops_the_build_or_is_recorded(tiny, out):
    (tiny.path / "maps/train/t6.png").unlink()
    out.mkdir()
    with pytest.raises(ValueError, match=r"1 of 9 images have no density map \(first: .*t6\.jpg\)"):
        pack_tiny(tiny, out)
    assert content(out) == {}
    tiny.add("train/t4", [np.empty((0, 2))])
    manifest = pack_tiny(tiny, out, skip_incomplete=True)
    keys = [entry.key for entry in manifest.splits["train"].samples]
    assert keys == [f"train/t{index}" for index in (0, 1, 2, 3, 5)]
    assert [(skipped.file, skipped.reason) for skipped in manifest.dropped.samples] == [
        ("images/train/t6.jpg", "have no density map"),
        ("fixations/train/t4.mat", "have no fixations"),
    ]
    assert verify(out, full=True) == manifest


def test_a_split_of_which_nothing_is_left_is_an_error(tiny, out):
    for index in range(2):
        (tiny.path / f"maps/val/v{index}.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"2 of 9 images cannot be used.*no images are left in val"
    ):
        pack_tiny(tiny, out, skip_incomplete=True)


def test_a_made_split_is_recorded(raw, out):
    for index in range(10):
        raw.add(f"s{index}", seed=index)
    manifest = pack(raw.path, out, seed=5)
    assert manifest.origin.split_seed == 5
    assert [len(split.samples) for split in manifest.splits.values()] == [9, 1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shard_size": 0}, "at least 1 sample, not 0"),
        *(({"sigma": sigma}, f"above 0, not {sigma}") for sigma in (0, -3, np.nan, np.inf)),
    ],
)
def test_a_number_that_cannot_be_is_refused(tiny, out, options, reason):
    with pytest.raises(ValueError, match=reason):
        pack_tiny(tiny, out, **options)
    assert not out.exists()
