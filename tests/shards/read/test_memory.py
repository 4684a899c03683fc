from __future__ import annotations

import gc
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from shards.read.loader import Loader, Reading
from shards.read.memory import MemoryReader, room
from shards.read.reader import ShardReader


@pytest.fixture
def reader(packed):
    return ShardReader(packed, "train")


@pytest.fixture
def memory(reader, tmp_path):
    memory = MemoryReader(reader, tmp_path)
    memory.reserve()
    return memory


def test_samples_come_out_as_they_went_in(reader, memory):
    for _ in range(2):
        for position in range(len(reader)):
            kept, plain = memory.decoded(position), reader.decoded(position)
            assert kept.key == plain.key
            for name in ("image", "points", "observers", "density"):
                np.testing.assert_array_equal(getattr(kept, name), getattr(plain, name))


def test_a_sample_is_decoded_once_for_all_that_share_the_memory(memory, packed):
    for position in range(len(memory)):
        memory.decoded(position)
    other = pickle.loads(pickle.dumps(memory))
    for path in packed.glob("*.tar"):
        path.unlink()
    assert other.decoded(3).key == "train/t3"


def test_a_loader_gives_the_same_batches_with_it(reader):
    plain, cached = Loader(reader, 4), Loader(reader, 4, reading=Reading(cache="ram"))
    for _ in range(2):
        for one, two in zip(plain.epoch(0), cached.epoch(0), strict=True):
            assert one.keys == two.keys
            assert torch.equal(one.image, two.image)
            assert torch.equal(one.density, two.density)
            assert torch.equal(one.pixels, two.pixels)


def test_it_says_how_much_it_takes(memory):
    pixels = 7 * 30 * 40
    assert memory.num_bytes == 7 + 4 * pixels + 12 * sum(memory.nums_fixations)
    assert "7 samples take 0.00 GB decoded" in memory.describe()
    assert memory.path.stat().st_size == memory.num_bytes


def test_what_would_not_fit_is_refused_and_leaves_nothing(reader, tmp_path, monkeypatch):
    memory = MemoryReader(reader, tmp_path)
    monkeypatch.setattr("shards.read.memory.room", lambda folder: memory.num_bytes - 1)
    with pytest.raises(ValueError, match=r"7 decoded samples take .* leave out --cache ram"):
        memory.reserve()
    assert not memory.path.exists()


def test_room_is_what_this_machine_has(tmp_path):
    assert 0 < room(tmp_path) < 1 << 60


def test_the_memory_goes_with_the_last_that_holds_it(reader, memory, tmp_path):
    second = MemoryReader(reader, tmp_path)
    second.reserve()
    path = memory.path
    del second
    gc.collect()
    assert path.exists()
    held = memory.decoded(0)
    del held


def test_what_killed_processes_left_is_removed_by_the_next(memory, reader, tmp_path):
    left = memory.path.with_name(f"{memory.path.name.rsplit('-', 1)[0]}-left")
    left.write_bytes(b"x")
    held = memory.path.with_name(f"{memory.path.name.rsplit('-', 1)[0]}-held")
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'wb'); fcntl.flock(f, fcntl.LOCK_SH);"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        MemoryReader(reader, tmp_path).reserve()
        assert held.exists()
        assert not left.exists()
        process.stdin.close()
