from __future__ import annotations

import pytest

from pipelines.__main__ import main, parse
from pipelines.commands.training.build_shards import BuildCommand
from pipelines.ray_cluster import tasks
from shards.build.build_options import BuildOptions
from shards.build.writer import build

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fail(number):
    if number == 3:
        raise OSError("shard 3: No space left on device")
    return number


def test_ray_tasks_write_the_bytes_that_one_process_writes(raw, tmp_path, monkeypatch, local_ray):
    build(raw, tmp_path / "one", BuildOptions(shard_size=4), progress=False)
    monkeypatch.chdir(tmp_path)
    command = ["build", str(raw), "two", "--shard-size", "4", "--num-workers", "2"]
    assert isinstance(parse(command), BuildCommand)
    assert main(command) == 0
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_an_error_of_a_task_is_raised_as_it_was(local_ray):
    with pytest.raises(OSError, match=r"^shard 3: No space left on device$"):
        list(tasks.map_unordered(fail, range(5), num_workers=2))


def test_every_item_is_answered_once(local_ray):
    assert sorted(tasks.map_unordered(fail, [5, 6, 7, 8], num_workers=3)) == [5, 6, 7, 8]
