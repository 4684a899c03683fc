"""Builds into a bucket: what a folder holds, a bucket holds, whatever happens on the way."""

from __future__ import annotations

import pytest

from shards.__main__ import main
from shards.build.parallel import processes
from shards.build.writer import build
from shards.files.manifest import Manifest
from shards.files.store import Store
from shards.inspect.verify import verify
from tests.shards.build.test_unfinished import run_build

OUT = "s3://tests/deep/out"


def content(folder):
    store = Store(folder)
    return {name: store.read(name) for name in store.sizes()}


@pytest.fixture
def whole(tiny, tmp_path):
    """The same data set as a folder here."""
    build(tiny.path, tmp_path / "whole", shard_size=3, progress=False)
    return content(tmp_path / "whole")


def test_a_bucket_holds_what_a_folder_holds_and_verifies(s3, tiny, whole):
    manifest = build(tiny.path, OUT, shard_size=3, progress=False)
    assert content(OUT) == whole
    assert verify(OUT, full=True) == manifest
    assert manifest.centre_prior(OUT).shape == (30, 40)


@pytest.mark.slow
def test_a_build_by_two_processes_holds_the_same_bytes_and_verifies(s3, tiny, whole):
    with processes(2) as map_:
        manifest = build(tiny.path, OUT, shard_size=3, map_=map_, progress=False)
        assert content(OUT) == whole
        assert verify(OUT, True, map_) == manifest


@pytest.mark.slow
def test_a_killed_build_has_no_manifest_and_the_next_one_goes_on(s3, tiny, whole):
    assert run_build(tiny, OUT, kill_at=5).returncode == -9
    with pytest.raises(ValueError, match="no finished data set"):
        Manifest.load(OUT)
    assert "train-000000.tar.part.json" in Store(OUT).sizes()
    shards = []

    def watched(function, tasks):
        shards.extend(task.file for task in tasks)
        return map(function, tasks)

    build(tiny.path, OUT, shard_size=3, map_=watched, progress=False)
    assert shards == ["train-000001.tar", "train-000002.tar", "val-000000.tar"]
    assert content(OUT) == whole


def test_a_server_that_fails_now_and_then_is_asked_again(s3, tiny, whole):
    s3.fail(2, "PUT", "train-000001")
    build(tiny.path, OUT, shard_size=3, progress=False)
    assert content(OUT) == whole


def test_wrong_input_leaves_nothing_in_the_bucket(s3, tiny):
    tiny.put("images/train/t2.jpg", b"\xff\xd8\xff nothing")
    with pytest.raises(ValueError, match="cannot be used"):
        build(tiny.path, OUT, shard_size=3, progress=False)
    assert Store(OUT).sizes() == {}


def test_a_bucket_that_is_not_there_is_an_error_of_one_line(s3, tiny, capsys):
    assert main(["build", str(tiny.path), "s3://nowhere/out", "--num-workers", "1"]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "s3://nowhere/out" in error


def test_a_changed_object_is_found(s3, tiny):
    build(tiny.path, OUT, shard_size=3, progress=False)
    store = Store(OUT)
    shard = bytearray(store.read("train-000001.tar"))
    shard[1000] ^= 255
    store.put("train-000001.tar", bytes(shard))
    verify(OUT)
    with pytest.raises(ValueError, match=r"s3://tests/deep/out/train-000001\.tar has changed"):
        verify(OUT, full=True)
