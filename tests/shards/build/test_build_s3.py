"""Builds into a bucket: what a folder holds, a bucket holds, whatever happens on the way."""

from __future__ import annotations

import pytest

from shards.__main__ import main
from shards.build.parallel import threads
from shards.files.store import Store
from shards.inspect.verify import verify
from tests.shards.conftest import pack

OUT = "s3://tests/deep/out"


def content(folder):
    store = Store(folder)
    return {name: store.read(name) for name in store.sizes()}


@pytest.fixture
def whole(tiny, tmp_path):
    """The same data set as a folder here."""
    pack(tiny.path, tmp_path / "whole", shard_size=3)
    return content(tmp_path / "whole")


def test_a_bucket_holds_what_a_folder_holds_and_verifies(s3, tiny, whole):
    manifest = pack(tiny.path, OUT, map_=threads(2), shard_size=3)
    assert content(OUT) == whole
    assert verify(OUT, True, threads(2)) == manifest
    assert manifest.centre_prior(OUT).shape == (30, 40)


def test_wrong_input_leaves_nothing_in_the_bucket(s3, tiny):
    tiny.put("images/train/t2.jpg", b"\xff\xd8\xff nothing")
    with pytest.raises(ValueError, match="cannot be used"):
        pack(tiny.path, OUT, shard_size=3)
    assert Store(OUT).sizes() == {}


def test_a_bucket_that_is_not_there_is_an_error_of_one_line(s3, tiny, capsys):
    assert main(["build", str(tiny.path), "s3://nowhere/out", "--num-workers", "1"]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "s3://nowhere/out" in error
