from __future__ import annotations

import itertools
import multiprocessing
import os
from pathlib import Path

import pytest

from emlnet.atomic_files import replace_file, replace_folder, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(folder, text):
    """Replaces a folder by one with two files."""
    with replace_folder(folder) as new:
        for name in ("a", "b"):
            (new / name).write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_file_gets_its_name_at_the_end_and_missing_folders_are_made(tmp_path):
    path = tmp_path / "deep" / "map.png"
    with replace_file(path) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("one")
        assert not path.exists()
    write_text(path, "two")
    assert path.read_text() == "two"
    assert names(path.parent) == ["map.png"]


def test_an_error_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a"
    write_text(path, "one")
    with pytest.raises(TypeError), replace_file(path) as temporary:
        temporary.write_text(2)
    assert path.read_text() == "one"
    assert names(tmp_path) == ["a"]


def test_a_folder_is_replaced_and_nothing_else_is_left(tmp_path):
    for text in ("one", "two"):
        fill(tmp_path / "deep" / "model", text)
    assert content(tmp_path / "deep" / "model") == {"a": "two", "b": "two"}
    assert names(tmp_path / "deep") == ["model"]


def test_an_error_leaves_the_folder_as_it_was(tmp_path):
    fill(tmp_path / "model", "one")
    with pytest.raises(OSError, match="full"), replace_folder(tmp_path / "model"):
        raise OSError("full")
    assert content(tmp_path / "model") == {"a": "one", "b": "one"}
    assert names(tmp_path) == ["model"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    fill(tmp_path / "real", "one")
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link", "two")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real")["a"] == "two"


def fill_and_die(folder, step):
    """Fills a folder, and ends without any clean-up at the given system call."""
    calls = itertools.count()

    def dying(function):
        def call(*arguments, **options):
            if next(calls) == step:
                os._exit(9)
            return function(*arguments, **options)

        return call

    for name in ("rename", "mkdir", "rmdir", "unlink", "write_text"):
        setattr(Path, name, dying(getattr(Path, name)))
    for name in ("unlink", "rmdir"):  # What shutil.rmtree calls.
        setattr(os, name, dying(getattr(os, name)))
    fill(folder, "two")


def test_a_kill_at_any_step_never_loses_the_folder_and_the_next_call_succeeds(tmp_path):
    spawn = multiprocessing.get_context("fork")
    exit_codes = []
    for step in range(40):
        folder = tmp_path / str(step) / "model"
        fill(folder, "one")
        process = spawn.Process(target=fill_and_die, args=(folder, step))
        process.start()
        process.join()
        exit_codes.append(process.exitcode)
        # A failing call comes first: it must not delete the only copy.
        with pytest.raises(OSError, match="full"), replace_folder(folder):
            raise OSError("full")
        assert content(folder) in ({"a": "one", "b": "one"}, {"a": "two", "b": "two"})
        fill(folder, "three")
        assert content(folder) == {"a": "three", "b": "three"}
        assert names(folder.parent) == ["model"]
    assert exit_codes.count(9) > 8
    assert exit_codes[-1] == 0


def test_an_empty_folder_made_after_a_kill_does_not_hide_the_copy(tmp_path):
    fill(tmp_path / ".model.old", "one")
    (tmp_path / "model").mkdir()
    with pytest.raises(OSError, match="full"), replace_folder(tmp_path / "model"):
        raise OSError("full")
    assert content(tmp_path / "model") == {"a": "one", "b": "one"}


def test_several_processes_at_once_all_succeed(tmp_path):
    spawn = multiprocessing.get_context("fork")
    workers = [
        spawn.Process(target=fill, args=(tmp_path / "model", text))
        for text in ("one", "two", "three")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(set(content(tmp_path / "model").values())) == 1
    assert names(tmp_path) == ["model"]
