"""Decoded samples in memory that all processes of a node share: decoded once, read ever after.

A file of /dev/shm holds them, in an order that the manifest gives; a byte for each says whether it
is there. Whoever comes to a sample first decodes it. The file goes with the last process that reads
from it; one that killed processes left is found by the next that wants the same, else removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import mmap
import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emlnet.data.samples import Decoded, Place, Sample
from shards.read.reader import Reader

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")


class MemoryReader:
    """A reader whose samples stay decoded in shared memory.

    `reserve` must be called before the first sample is read; copies in other processes need no
    call of their own.
    """

    def __init__(self, reader: Reader, folder: Path = FOLDER) -> None:
        self.reader = reader
        self.keys, self.sizes, self.digest = reader.keys, reader.sizes, reader.digest
        self.nums_fixations, self.parts = reader.nums_fixations, reader.parts
        lengths = [
            4 * height * width + 12 * num
            for (height, width), num in zip(self.sizes, self.nums_fixations, strict=True)
        ]
        ends = len(self) + np.cumsum([0, *lengths])
        self._starts: list[int] = ends.tolist()
        self.num_bytes = self._starts[-1]
        name = hashlib.sha256("\n".join([self.digest, *self.keys]).encode()).hexdigest()[:24]
        self.path = folder / f"emlnet-{os.getuid()}-{name}"
        self._memory: NDArray[np.uint8] | None = None
        self._file: int | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.reader)

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the file for itself.
        return {**self.__dict__, "_memory": None, "_file": None}

    def describe(self) -> str:
        """How much memory the samples take, in words."""
        return (
            f"cache ram: {len(self)} samples take {self.num_bytes / 1e9:.2f} GB decoded, "
            f"of {room(self.path.parent) / 1e9:.2f} GB free"
        )

    def reserve(self) -> None:
        """Takes the memory.  Raises ValueError when there is too little."""
        if not self.path.parent.is_dir():
            raise ValueError(f"--cache ram wants {self.path.parent}, which this system has not")
        remove_unused(self.path)
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._allocate(file)
            except BlockingIOError:
                pass  # Somebody else takes it, or has it.
            except BaseException:
                self.path.unlink(missing_ok=True)
                os.close(file)
                raise
            fcntl.flock(file, fcntl.LOCK_SH)
            with contextlib.suppress(FileNotFoundError):
                same = os.path.samestat(os.fstat(file), self.path.stat())
                if same and os.fstat(file).st_size == self.num_bytes:
                    break
            os.close(file)  # Removed just before.
        weakref.finalize(self, _release, file, self.path)

    def _allocate(self, file: int) -> None:
        if os.fstat(file).st_size == self.num_bytes:
            return
        free = room(self.path.parent)
        refused = ValueError(
            f"{len(self)} decoded samples take {self.num_bytes / 1e9:.2f} GB, {self.path.parent} "
            f"has room for {free / 1e9:.2f} GB: leave out --cache ram, or give the machine, or the "
            "container (docker run --shm-size), more"
        )
        if self.num_bytes > free:
            raise refused
        logger.warning("%s", self.describe())
        try:
            os.posix_fallocate(file, 0, self.num_bytes)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise refused from error

    def sample(self, position: int) -> Sample:
        """Reads one sample, still encoded; raises what its reader does."""
        return self.reader.sample(position)

    def decoded(self, position: int, place: Place | None = None) -> Decoded:
        """A sample; raises what its reader does when it is not there yet."""
        memory = self._mapped()
        with self._locked(position, fcntl.LOCK_SH):
            if memory[position]:
                return self._view(memory, position)
        sample = self.reader.decoded(position)
        with self._locked(position, fcntl.LOCK_EX):
            view = self._view(memory, position)
            for name in ("image", "points", "observers", "density"):
                np.copyto(getattr(view, name), getattr(sample, name))
            memory[position] = 1
        return view

    def _view(self, memory: NDArray[np.uint8], position: int) -> Decoded:
        """A sample's place in the memory."""
        height, width = self.sizes[position]
        num = self.nums_fixations[position]
        piece = memory[self._starts[position] : self._starts[position + 1]]
        image, density, gaze = np.split(piece, [3 * height * width, 4 * height * width])
        rows = gaze.view(np.int32)
        return Decoded(
            key=self.keys[position],
            image=image.reshape(height, width, 3),
            points=rows[: 2 * num].reshape(num, 2),
            observers=rows[2 * num :],
            density=density.reshape(height, width),
        )

    def _mapped(self) -> NDArray[np.uint8]:
        if self._memory is None:
            self._file = os.open(self.path, os.O_RDWR)
            self._memory = np.frombuffer(mmap.mmap(self._file, self.num_bytes), np.uint8)
        return self._memory

    @contextlib.contextmanager
    def _locked(self, position: int, kind: int) -> Iterator[None]:
        assert self._file is not None
        fcntl.lockf(self._file, kind, 1, position)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, position)


def room(folder: Path) -> int:
    """Bytes that a file of a folder in memory may still take."""
    rooms = [shutil.disk_usage(folder).free]
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        rooms.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # No limit is the word "max".
        limit = int((CGROUP / "memory.max").read_text())
        rooms.append(limit - int((CGROUP / "memory.current").read_text()))
    return max(0, min(rooms))


def remove_unused(own: Path) -> None:
    """Removes other such files of this user that no process holds any more."""
    prefix = own.name.rsplit("-", 1)[0]
    for path in own.parent.glob(f"{prefix}-*"):
        if path != own:
            with contextlib.suppress(OSError):
                _release(os.open(path, os.O_RDWR), path)


def _release(file: int, path: Path) -> None:
    """Closes a file, and removes it when nobody else holds it."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    os.close(file)
