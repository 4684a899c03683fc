from __future__ import annotations

import fcntl
import logging
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from shards.manifest import Manifest
from shards.raw import SourceOptions
from shards.reader import ShardReader
from shards.verify import verify
from shards.writer import build
from tests.shards.conftest import encode_mat, encode_png

ROOT = Path(__file__).parents[2]
BUILT = """
import os, signal, sys
from pathlib import Path
from shards import parts, writer
calls = []
def pack(sample, pack=parts.pack):
    calls.append(sample)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return pack(sample)
parts.pack = pack
writer.build(Path(sys.argv[1]), sys.argv[2], shard_size=3, progress=False)
"""


def run_build(tiny, out, kill_at):
    """A build in a process of its own, killed when it packs that sample."""
    return subprocess.run(
        [sys.executable, "-c", BUILT, str(tiny.path), str(out), str(kill_at)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pack_tiny(tiny, out, splits=(), **options):
    source = SourceOptions(splits=splits)
    return build(tiny.path, out, source, progress=False, **{"shard_size": 3, **options})


def test_a_build_holds_every_sample_in_numbered_shards(tiny, out):
    manifest = pack_tiny(tiny, out)
    assert sorted(content(out)) == [
        "centre-train.npy",
        "manifest.json",
        "train-000000.tar",
        "train-000001.tar",
        "train-000002.tar",
        "val-000000.tar",
    ]
    assert [shard.num_samples for shard in manifest.splits["train"].shards] == [3, 3, 1]
    assert [entry.key for entry in manifest.splits["val"].samples] == ["val/v0", "val/v1"]
    assert manifest.name == "raw"
    assert manifest == Manifest.load(out) == verify(out, full=True)


def test_the_same_input_gives_the_same_bytes(tiny, tmp_path):
    pack_tiny(tiny, tmp_path / "one")
    pack_tiny(tiny, tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_copy_of_the_input_gives_the_same_shards_and_digest(tiny, tmp_path):
    first = pack_tiny(tiny, tmp_path / "one")
    shutil.copytree(tiny.path, tmp_path / "copy", copy_function=shutil.copyfile)
    second = build(tmp_path / "copy", tmp_path / "two", shard_size=3, progress=False)
    assert first.digest == second.digest
    shards = [
        {n: b for n, b in content(tmp_path / f).items() if "json" not in n} for f in ("one", "two")
    ]
    assert shards[0] == shards[1]


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
    assert dropped.points_outside == 2
    assert dropped.empty_observers == 7


def test_the_centre_prior_is_the_mean_of_trains_densities(raw, out, png):
    for index, value in enumerate((1, 100)):
        raw.add(f"train/{index}")
        pixels = np.zeros((30, 40), np.uint8)
        pixels[0, index] = value
        raw.put(f"maps/train/{index}.png", png(pixels))
    raw.add("val/v")
    prior = build(raw.path, out, progress=False).centre_prior(out)
    expected = np.zeros((30, 40), np.float32)
    expected[0, :2] = 0.5
    np.testing.assert_array_equal(prior, expected, strict=True)


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


def test_a_missing_file_stops_the_build_before_it_writes(tiny, out):
    (tiny.path / "maps/train/t6.png").unlink()
    out.mkdir()
    with pytest.raises(
        ValueError, match=r"1 of 9 images have no density map \(first: .*/t6\.jpg\)"
    ):
        pack_tiny(tiny, out)
    assert content(out) == {}


def test_skipped_samples_are_recorded(tiny, out):
    (tiny.path / "maps/train/t6.png").unlink()
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
    with pytest.raises(ValueError, match=r"2 of 9 images cannot be used.*nothing is left of val"):
        pack_tiny(tiny, out, skip_incomplete=True)


def test_a_made_split_is_recorded(raw, out):
    for index in range(10):
        raw.add(f"s{index}", seed=index)
    manifest = build(raw.path, out, SourceOptions(seed=5), progress=False)
    assert manifest.origin.split_seed == 5
    assert [len(split.samples) for split in manifest.splits.values()] == [9, 1]


def test_a_finished_build_is_kept(tiny, out):
    manifest = pack_tiny(tiny, out)
    before = (out / "train-000000.tar").stat().st_mtime_ns
    assert pack_tiny(tiny, out) == manifest
    assert (out / "train-000000.tar").stat().st_mtime_ns == before


def test_a_finished_build_of_something_else_is_not_overwritten(tiny, out):
    pack_tiny(tiny, out)
    before = content(out)
    with pytest.raises(ValueError, match="built from other files or options; delete it"):
        pack_tiny(tiny, out, shard_size=4)
    assert content(out) == before


@pytest.mark.parametrize("name", ["notes.txt", "train-000000.tar", "a.tmp"])
def test_a_folder_that_holds_anything_else_is_refused(tiny, out, name):
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {name}, which no unfinished build left"):
        pack_tiny(tiny, out)
    assert content(out) == {name: b"mine"}


def test_a_file_of_someone_else_in_an_unfinished_build_is_not_deleted(tiny, out):
    out.mkdir()
    (out / "manifest.json.tmp").touch()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt"):
        pack_tiny(tiny, out)
    assert (out / "notes.txt").read_text() == "mine"


def test_a_killed_build_never_verifies_and_the_next_one_goes_on(tiny, out, tmp_path, caplog):
    assert run_build(tiny, out, kill_at=5).returncode == -9
    assert sorted(content(out)) == [
        "manifest.json.tmp",
        "train-000000.tar.part.json",
        "train-000000.tar.part.npy",
        "train-000000.tar.tmp",
        "train-000001.tar.tmp",
    ]
    with pytest.raises(ValueError, match="no finished data set"):
        verify(out)
    written = (out / "train-000000.tar.tmp").stat()
    with caplog.at_level(logging.INFO):
        pack_tiny(tiny, out)
    assert "going on: 1 of 4 shards are there" in caplog.text
    assert (out / "train-000000.tar").stat().st_mtime_ns == written.st_mtime_ns
    pack_tiny(tiny, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def stop_after(num):
    """A map that is interrupted after that many shards."""

    def interrupted(function, tasks):
        yield from map(function, list(tasks)[:num])
        raise KeyboardInterrupt

    return interrupted


def test_what_another_build_left_is_not_used(tiny, out, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pack_tiny(tiny, out, map_=stop_after(2))
    assert "train-000001.tar.part.json" in content(out)
    pack_tiny(tiny, out, shard_size=4)
    pack_tiny(tiny, tmp_path / "whole", shard_size=4)
    assert content(out) == content(tmp_path / "whole")


def test_a_build_killed_after_its_manifest_is_cleaned_up_by_the_next(tiny, out, tmp_path):
    pack_tiny(tiny, out)
    whole = content(out)
    for name in ("manifest.json.tmp", "train-000000.tar.part.json", "val-000000.tar.part.npy"):
        (out / name).write_bytes(b"left")
    pack_tiny(tiny, out)
    assert content(out) == whole


def test_a_build_killed_while_it_puts_files_in_place_starts_clean(tiny, out, tmp_path):
    pack_tiny(tiny, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", out)
    (out / "manifest.json").rename(out / "manifest.json.tmp")
    (out / "val-000000.tar").rename(out / "val-000000.tar.tmp")
    (out / "train-000007.tar").write_bytes(b"of an earlier build")
    pack_tiny(tiny, out)
    assert content(out) == content(tmp_path / "whole")


def test_two_builds_cannot_write_to_one_folder(tiny, out):
    out.mkdir()
    with (out / "manifest.json.tmp").open("w") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another build is writing"):
            pack_tiny(tiny, out)


def test_a_full_disk_stops_the_build_with_the_shard_named_and_the_next_one_goes_on(
    tiny, out, tmp_path
):
    noise = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    (tiny.path / "images/train/t4.jpg").unlink()
    tiny.put("images/train/t4.png", encode_png(noise))
    tiny.put("maps/train/t4.png", encode_png(noise[..., 0]))
    tiny.put("fixations/train/t4.mat", encode_mat([[[5, 5]]], (100, 120)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))  # no file may be larger
    try:
        with pytest.raises(OSError, match=r"train-000001\.tar\.tmp: .* finished stays in .*out"):
            pack_tiny(tiny, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "train-000000.tar.part.json" in content(out)
    with pytest.raises(ValueError, match="no finished data set"):
        verify(out)
    pack_tiny(tiny, out)
    pack_tiny(tiny, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_images_of_several_sizes_are_packed_and_their_prior_has_the_first_size(raw, out):
    raw.add("train/a", size=(30, 40))
    raw.add("train/b", size=(60, 80))
    manifest = build(raw.path, out, progress=False)
    assert manifest.centre_prior(out).shape == (30, 40)
    assert manifest.centre_prior(out).sum() == pytest.approx(1, abs=1e-5)
    assert ShardReader(out, "train").sizes == ((30, 40), (60, 80))


def test_a_shard_size_of_zero_is_refused(tiny, out):
    with pytest.raises(ValueError, match="at least 1 sample"):
        pack_tiny(tiny, out, shard_size=0)
