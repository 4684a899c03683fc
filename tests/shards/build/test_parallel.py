from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shards.build.parallel import processes
from shards.build.writer import build
from shards.inspect.verify import verify

ROOT = Path(__file__).parents[3]
ORPHANS = """
import os, signal, sys, threading, time
from shards.build.parallel import processes
def wait(path):
    open(path, "w").write(str(os.getpid()))
    time.sleep(60)
"""
PARENT = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[2])
import orphans
from shards.build.parallel import processes
if __name__ == "__main__":
    with processes(2) as map_:
        waiting = threading.Thread(target=lambda: list(map_(orphans.wait, [sys.argv[1]])))
        waiting.start()
        while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kill_self(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_process_and_two_write_the_same_bytes(tiny, tmp_path):
    build(tiny.path, tmp_path / "one", shard_size=2, progress=False)
    with processes(2) as map_:
        build(tiny.path, tmp_path / "two", shard_size=2, map_=map_, progress=False)
        assert content(tmp_path / "one") == content(tmp_path / "two")
        verify(tmp_path / "two", True, map_)


def test_tasks_done_in_another_order_write_the_same_bytes(tiny, tmp_path):
    def backwards(function, items):
        return map(function, reversed(list(items)))

    build(tiny.path, tmp_path / "one", shard_size=2, progress=False)
    build(tiny.path, tmp_path / "two", shard_size=2, map_=backwards, progress=False)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_process_that_is_killed_is_an_error_that_says_what_to_do():
    with processes(2) as map_, pytest.raises(ChildProcessError, match="--num-workers"):
        list(map_(kill_self, [1, 2]))


def test_processes_see_the_environment_of_now(monkeypatch):
    monkeypatch.setenv("EMLNET_TEST", "now")
    with processes(2) as map_:
        assert list(map_(os.getenv, ["EMLNET_TEST"])) == ["now"]


def test_no_processes_at_all_are_refused():
    with pytest.raises(ValueError, match="at least 1 process"), processes(0):
        pass


@pytest.mark.slow
def test_a_killed_build_leaves_no_process_behind(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    (tmp_path / "parent.py").write_text(PARENT)
    path = tmp_path / "pid"
    killed = subprocess.run(
        [sys.executable, str(tmp_path / "parent.py"), str(path), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -9
    worker = Path(f"/proc/{path.read_text()}")
    until = time.monotonic() + 10
    while worker.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not worker.exists()
