"""Replace files and folders whole or not at all, even if the process is killed."""

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

    durable: flush the file to disk, so that it survives a power cut.  This takes milliseconds, too
    slow for thousands of maps that can be computed again.
    The temporary name keeps the suffix of `path`: many writers choose the format by it.  Missing
    folders are created.  After an error `path` is unchanged and the temporary file is removed.
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
    """Yield an empty folder beside `folder` that replaces it at the end.

    Other processes wait.  After an error `folder` is unchanged.  After a kill, the next call first
    restores the folder that was moved away.
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
            # A waiting process notices that the file is gone and creates a new one.
            lock.unlink(missing_ok=True)


def _put_back(old: Path, folder: Path) -> None:
    """Move `old` back to `folder` if that is missing or empty, else delete `old`."""
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
