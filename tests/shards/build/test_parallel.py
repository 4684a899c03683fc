from __future__ import annotations

import pytest

from shards.build.parallel import threads
from shards.inspect.verify import verify
from tests.shards.conftest import content, pack_tiny


def backwards(function, items):
    return map(function, reversed(list(items)))


@pytest.mark.parametrize("map_", [threads(2), backwards])
def test_any_number_of_threads_and_order_of_tasks_writes_the_same_bytes(tiny, tmp_path, map_):
    pack_tiny(tiny, tmp_path / "one", shard_size=2)
    pack_tiny(tiny, tmp_path / "two", shard_size=2, map_=map_)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    verify(tmp_path / "two", True, threads(2))


def test_the_first_error_of_a_thread_is_raised():
    def fail(number):
        raise ValueError(f"task {number}")

    with pytest.raises(ValueError, match="task"):
        list(threads(2)(fail, range(9)))
