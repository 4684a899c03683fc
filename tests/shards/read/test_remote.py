"""Reading from an object store, through the cache of a node."""

from __future__ import annotations

import http.server
import os
import pickle
import threading
from functools import partial
from pathlib import Path

import pytest
import s3fs

from shards.files.store import location
from shards.read import remote
from shards.read.loader import ErrorPolicy, Loader
from shards.read.reader import ShardReader

URL = "s3://tests/set"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The node's cache, with next to no pause between attempts."""
    monkeypatch.setenv("EMLNET_SHARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSES", (0.001, 0.001))
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    return tmp_path / "cache"


@pytest.fixture
def bucket(s3, packed, cache):
    """The tiny data set in the bucket; counts the requests for each shard."""
    s3fs.S3FileSystem().put(str(packed), "tests/set", recursive=True)
    return s3


def count(server):
    """Requests by the last part of their path, from now on."""
    counts = {}

    def gate(environ, respond):
        if environ["REQUEST_METHOD"] == "GET":
            name = environ["PATH_INFO"].rsplit("/", 1)[-1]
            counts[name] = counts.get(name, 0) + 1
        return server.application(environ, respond)

    server.gate = gate
    return counts


def test_samples_are_those_of_the_folder(bucket, packed):
    far, local = ShardReader(URL, "train"), ShardReader(packed, "train")
    assert far.manifest.digest == local.manifest.digest
    for position in (6, 0, 3):
        assert far.sample(position).image == local.sample(position).image


def test_each_shard_is_fetched_once_for_all_processes_of_a_node(bucket, cache):
    reader = ShardReader(URL, "train")
    counts = count(bucket)
    list(Loader(reader, 2, num_workers=2).epoch(0))
    other = pickle.loads(pickle.dumps(reader))
    assert other.sample(6).key == "train/t6"
    assert {name: num for name, num in counts.items() if name.endswith("tar")} == {
        f"train-{number:06d}.tar": 1 for number in range(3)
    }
    assert not list(cache.rglob("*.part"))


def test_what_does_not_fit_the_cache_is_read_sample_by_sample(bucket, cache, monkeypatch):
    monkeypatch.setenv("EMLNET_SHARD_CACHE_GB", "25e-6")
    reader = ShardReader(URL, "train")
    assert [reader.sample(position).key for position in range(7)] == list(reader.keys)
    kept = list(cache.rglob("*.tar"))
    assert 1 <= len(kept) < 3
    assert sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) <= 25_000


def test_nonsense_as_the_size_of_the_cache_is_refused(bucket, monkeypatch):
    monkeypatch.setenv("EMLNET_SHARD_CACHE_GB", "much")
    with pytest.raises(ValueError, match="a number of gigabytes, not 'much'"):
        ShardReader(URL, "train")


def test_a_data_set_that_nobody_reads_makes_room_and_strangers_are_left_alone(
    bucket, cache, monkeypatch
):
    monkeypatch.setenv("EMLNET_SHARD_CACHE_GB", "45e-6")
    old, held = cache / ("0" * 32), cache / ("1" * 32)
    strangers = (cache / "thesis/final.tar", cache / ("2" * 32) / "no-mark.tar")
    for path in (old / "a.tar", held / "a.tar", *strangers):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(20_000))
    for folder in (old, held):
        (folder / "last-use").write_text("20000")
    os.utime(old / "last-use", (0, 0))
    ShardReader(URL, "train").sample(0)
    assert list(cache.rglob("train-000000.tar"))
    assert (old.exists(), held.exists()) == (False, True)
    for path in strangers:
        assert list(path.parent.iterdir()) == [path]


def test_a_cut_download_is_fetched_again(bucket, packed):
    reader = ShardReader(URL, "train")
    cuts = [1]

    def gate(environ, respond):
        body = b"".join(bucket.application(environ, respond))
        if cuts and environ["PATH_INFO"].endswith("train-000000.tar"):
            cuts.clear()
            return [body[:1000]]
        return [body]

    bucket.gate = gate
    assert reader.sample(1).image == ShardReader(packed, "train").sample(1).image
    assert not cuts


def test_a_cached_shard_that_was_changed_is_fetched_again(bucket, cache, change_byte):
    reader = ShardReader(URL, "train")
    reader.sample(0)
    (path,) = cache.rglob("train-000000.tar")
    change_byte(path, 700)
    assert reader.sample(0).key == "train/t0"
    assert reader.sample(0).key == "train/t0"
    path.write_bytes(path.read_bytes()[:100])
    assert reader.sample(0).key == "train/t0"
    path.unlink(missing_ok=True)
    assert reader.sample(0).key == "train/t0"


def test_a_shard_that_changed_in_the_store_names_shard_and_sample(bucket, packed, change_byte):
    reader = ShardReader(URL, "train")
    change_byte(packed / "train-000001.tar", reader.entries[4].offset + 700)
    s3fs.S3FileSystem().put(str(packed / "train-000001.tar"), "tests/set/train-000001.tar")
    with pytest.raises(ValueError, match=r"train-000001\.tar, for sample train/t4: .* has changed"):
        reader.sample(4)


def test_a_shard_that_went_names_shard_and_sample(bucket):
    reader = ShardReader(URL, "train")
    s3fs.S3FileSystem().rm("tests/set/train-000001.tar")
    with pytest.raises(ValueError, match=r"sample train/t4: .*train-000001\.tar is missing"):
        reader.sample(4)


def test_a_server_that_answers_500_is_asked_again_then_shard_and_sample_are_named(bucket):
    reader = ShardReader(URL, "train")
    bucket.fail(1, "GET", "train-000000.tar")
    assert reader.sample(0).key == "train/t0"
    bucket.fail(10**6, "GET", "train-000001.tar")
    with pytest.raises(OSError, match=r"s3://tests/set/train-000001\.tar, for sample train/t3"):
        reader.sample(3)


def test_skip_ends_when_the_server_goes_away_in_the_middle(bucket, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", ())
    reader, errors = ShardReader(URL, "train"), ErrorPolicy(on_error="skip", max_skipped=0.3)
    batches = Loader(reader, 1, errors=errors).epoch(0)
    assert [next(batches).keys[0] for _ in range(3)] == ["train/t0", "train/t1", "train/t2"]
    bucket.fail(10**6, "GET")
    with pytest.raises(ValueError, match=r"3 of 7 samples could not be read, more than the 30\.0%"):
        list(batches)


def test_a_full_disk_reads_sample_by_sample(bucket, monkeypatch):
    def full(self, shard, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remote.ShardFiles, "_fetch", full)
    assert ShardReader(URL, "train").sample(5).key == "train/t5"


@pytest.mark.parametrize("gigabytes", ["1", "0"])
def test_a_web_server_without_ranges_does_too(packed, cache, monkeypatch, gigabytes):
    monkeypatch.setenv("EMLNET_SHARD_CACHE_GB", gigabytes)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(packed))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        reader = ShardReader(f"http://127.0.0.1:{server.server_port}", "train")
        assert [reader.sample(position).key for position in range(7)] == list(reader.keys)
        server.shutdown()
        thread.join()


def test_a_url_survives_a_path(tmp_path):
    assert location(Path("s3://bucket/folder")) == "s3://bucket/folder"
    assert location("https://host/x") == "https://host/x"
    assert location(tmp_path) == tmp_path
