"""Files and folders that are replaced whole or not at all, even when the process is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def replace_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there replaces `path` at the end.

    durable: wait until the disk has the file, so that it survives a power cut.  That takes some
    milliseconds, too much for thousands of maps that can be made again.
    The temporary name has the suffix of `path`, from which many writers take the format.  Missing
    folders are made.  After an error `path` is as it was, and the temporary file is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        if durable:
            _flush_to_disk(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replace_file(path) as temporary:
        temporary.write_text(text)


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place at the end.

    One process at a time; others wait.  After an error `folder` is as it was.  After a kill at any
    point, the next call puts back what the killed one had moved away, before anything is deleted.
    """
    folder = folder.resolve()
    new, old, lock = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "old", "lock"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        _put_back(old, folder)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            yield new
            for path in new.rglob("*"):
                if path.is_file():
                    _flush_to_disk(path)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        finally:
            _put_back(old, folder)
            shutil.rmtree(new, ignore_errors=True)
            # A process that waits for this file notices that it is gone, and makes a new one.
            lock.unlink(missing_ok=True)


def _put_back(old: Path, folder: Path) -> None:
    """Move `old` to `folder` where there is nothing in that place, else remove it."""
    if old.exists():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
