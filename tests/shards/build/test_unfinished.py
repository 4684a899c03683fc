"""Folders in which a build was finished or broken off, or something else lies."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from shards.inspect.verify import verify
from tests.shards.conftest import content, encode_mat, encode_png, pack_tiny

ROOT = Path(__file__).parents[3]
BUILT = """
import os, signal, sys
from pathlib import Path
from shards.build import shard_task, writer
calls = []
def encode(sample, encode=shard_task.encode_record):
    calls.append(sample)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(sample)
shard_task.encode_record = encode
writer.build(Path(sys.argv[1]), sys.argv[2], writer.BuildOptions(shard_size=3), progress=False)
"""


def run_build(tiny, out, kill_at):
    """A build in a process of its own, killed when it packs that sample."""
    return subprocess.run(
        [sys.executable, "-c", BUILT, str(tiny.path), str(out), str(kill_at)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_finished_build_is_kept_and_not_overwritten_by_another(tiny, out):
    manifest = pack_tiny(tiny, out)
    before = (out / "train-000000.tar").stat().st_mtime_ns
    assert pack_tiny(tiny, out) == manifest
    with pytest.raises(ValueError, match="built from other files or options; delete it"):
        pack_tiny(tiny, out, shard_size=4)
    assert (out / "train-000000.tar").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "is_unfinished"), [("train-000000.tar", False), ("a.tmp", False), ("notes.txt", True)]
)
def test_a_folder_that_holds_anything_else_is_refused(tiny, out, name, is_unfinished):
    out.mkdir()
    (out / name).write_text("mine")
    if is_unfinished:
        (out / "manifest.json.tmp").touch()
    with pytest.raises(ValueError, match=f"holds {name}, which is not from an unfinished build"):
        pack_tiny(tiny, out)
    assert (out / name).read_text() == "mine"


def test_a_killed_build_never_verifies_and_the_next_one_goes_on(tiny, out, tmp_path, caplog):
    assert run_build(tiny, out, kill_at=5).returncode == -9
    assert [name for name in sorted(content(out)) if not name.startswith(".tmp-")] == [
        "build.lock",
        "manifest.json.tmp",
        "train-000000.tar",
        "train-000000.tar.part.json",
        "train-000000.tar.part.npy",
    ]
    with pytest.raises(ValueError, match="no finished data set"):
        verify(out)
    written = (out / "train-000000.tar").stat()
    with caplog.at_level(logging.INFO):
        pack_tiny(tiny, out)
    assert "resuming: 1 of 4 shards are there" in caplog.text
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


def test_two_builds_cannot_write_to_one_folder(tiny, out):
    out.mkdir()
    with FileLock(out / "build.lock"), pytest.raises(ValueError, match="another build is writing"):
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
        with pytest.raises(OSError, match=r"train-000001\.tar: .*finished shards stay in .*out"):
            pack_tiny(tiny, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "train-000000.tar.part.json" in content(out)
    with pytest.raises(ValueError, match="no finished data set"):
        verify(out)
    pack_tiny(tiny, out)
    pack_tiny(tiny, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")
