"""The bytes of samples: from a folder here, or by way of a bounded cache from an object store.

A data set that fits the cache is fetched shard by shard, each once for all processes of a node, and
read here from then on; its checksum must be the manifest's. What does not fit is read sample by
sample with range requests: in a random order over all shards, a cache that drops a shard to take
another would fetch each many times an epoch.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from filelock import FileLock

from shards.files.manifest import IndexEntry, Shard, check_piece
from shards.files.store import Store

logger = logging.getLogger(__name__)

CACHE = "EMLNET_SHARD_CACHE"
CACHE_BYTES = "EMLNET_SHARD_CACHE_GB"
DEFAULT_GB = 50.0
ATTEMPTS = 4
FIRST_PAUSE = 0.25
"""Seconds before another attempt; doubled each time."""
CHUNK = 16 << 20
LAST_USE = "last-use"
IN_USE = 3600
"""Seconds after its last use in which a data set is not removed from the cache."""
OWN = re.compile(r"[0-9a-f]{32}")
"""Names of the cache's folders: each is that of a data set."""
REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors, of the cache's disk above all, that another attempt does not mend."""

Content = TypeVar("Content")


class Pieces(Protocol):
    """The bytes of samples."""

    def read(self, shard: Shard, entry: IndexEntry) -> tuple[bytes, str]:
        """A sample's bytes, those that the manifest knows, and where they are from."""


def open_pieces(folder: Path | str, digest: str) -> Pieces:
    """The samples of a data set.

    digest: what it is known by.  The environment says where a remote one is cached and how much:
    EMLNET_SHARD_CACHE, a folder, ~/.cache/emlnet/shards by default, and EMLNET_SHARD_CACHE_GB.
    """
    store = Store(folder)
    if store.is_local:
        return LocalPieces(Path(folder))
    default = Path("~/.cache/emlnet/shards").expanduser()
    cache = Path(os.environ.get(CACHE) or default).expanduser().absolute()
    return RemotePieces(store, digest, cache, cache_limit())


def cache_limit() -> int:
    """Bytes that the cache may hold.  Raises ValueError when the environment says nonsense."""
    text = os.environ.get(CACHE_BYTES) or str(DEFAULT_GB)
    try:
        limit = float(text)
        if not 0 <= limit < float("inf"):
            raise ValueError(text)
    except ValueError:
        raise ValueError(f"{CACHE_BYTES} is a number of gigabytes, not {text!r}") from None
    return int(limit * 1e9)


class LocalPieces:
    """Samples of a folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, shard: Shard, entry: IndexEntry) -> tuple[bytes, str]:
        """A sample's bytes; ValueError naming shard and sample when they have changed."""
        path = self.folder / shard.file
        try:
            piece = _read_range(path, entry)
        except FileNotFoundError as error:
            raise ValueError(f"{path} is missing: it holds sample {entry.key}") from error
        check_piece(piece, entry, path)
        return piece, str(path)


class RemotePieces:
    """Samples of an object store, by way of a folder here that the processes of a node share.

    cache: that folder; each data set has a folder of its own in it, named by its digest, with a
    file `last-use`.  limit: bytes of all together.
    What else lies there is neither counted nor touched.
    """

    def __init__(self, store: Store, digest: str, cache: Path, limit: int) -> None:
        self.store, self.cache, self.limit = store, cache, limit
        self.folder = cache / digest[:32]
        self._marked = -float("inf")
        self._uncached: set[str] = set()

    def read(self, shard: Shard, entry: IndexEntry) -> tuple[bytes, str]:
        """A sample's bytes.

        Raises ValueError naming shard and sample when the store holds others, OSError when it does
        not answer.
        """
        place = self.store.place(shard.file)
        for _ in range(2):
            path = self._fetched(shard, entry.key)
            if path is None:
                break
            with contextlib.suppress(OSError, ValueError):
                piece = _read_range(path, entry)
                check_piece(piece, entry, path)
                return piece, place
            # Somebody changed or removed it: fetched once more.
            logger.warning("%s is not what was fetched; fetching it again", path)
            path.unlink(missing_ok=True)

        def fetch() -> bytes:
            piece = self._part(shard, entry.offset, entry.length)
            check_piece(piece, entry, place)
            return piece

        return _persist(fetch, f"{place}, sample {entry.key}"), place

    def _part(self, shard: Shard, offset: int, length: int) -> bytes:
        part = self.store.read_part(shard.file, offset, length)
        if len(part) == shard.num_bytes:  # From a web server that knows no ranges.
            part = part[offset : offset + length]
        return part

    def _fetched(self, shard: Shard, key: str) -> Path | None:
        """The shard's file in the cache, fetched if it is not there; None when it cannot be."""
        path = self.folder / shard.file
        if shard.file in self._uncached:
            return None
        try:
            self._mark()
            if path.is_file():
                return path
            with FileLock(path.with_name(f"{shard.file}.lock")):
                if path.is_file():
                    return path
                if self._admit(shard):
                    self._fetch(shard, path, key)
                    return path
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            logger.warning("%s cannot be cached: %s; its samples are read one by one", path, error)
        self._uncached.add(shard.file)
        return None

    def _mark(self) -> None:
        """Keeps other data sets from taking this one's place, for as long as it is read."""
        if time.monotonic() > self._marked + IN_USE / 10:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LAST_USE).touch()
            self._marked = time.monotonic()

    def _admit(self, shard: Shard) -> bool:
        """Whether the shard fits, once data sets out of use are removed; keeps its place."""
        with FileLock(self.cache / ".lock"):
            part = self.folder / f"{shard.file}.part"
            part.unlink(missing_ok=True)
            own = {path: _last_use(path) for path in self.cache.iterdir() if _is_own(path)}
            room = self.limit - sum(map(_bytes_in, own)) - shard.num_bytes
            for other in sorted(own, key=lambda path: own[path]):
                if room < 0 and other != self.folder and own[other] < time.time() - IN_USE:
                    room += _bytes_in(other)
                    shutil.rmtree(other)
                    logger.info("removed %s from the cache", other)
            if room < 0:
                return False
            with part.open("wb") as file:
                file.truncate(shard.num_bytes)
            return True

    def _fetch(self, shard: Shard, path: Path, key: str) -> None:
        """Fetches a shard to a file of another name, checks it, and gives it its own."""
        part = path.with_name(f"{shard.file}.part")
        place = self.store.place(shard.file)

        def fetch() -> None:
            digest = hashlib.sha256()
            with part.open("r+b") as file:
                for start in range(0, shard.num_bytes, CHUNK):
                    length = min(CHUNK, shard.num_bytes - start)
                    chunk = self._part(shard, start, length)
                    if len(chunk) != length:
                        raise ValueError(f"{place} is cut: {len(chunk)} of {length} bytes came")
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != shard.sha256:
                raise ValueError(f"{place} has changed: its checksum differs")
            part.replace(path)

        try:
            _persist(fetch, f"{place}, for sample {key}")
        finally:
            part.unlink(missing_ok=True)


def _persist(fetch: Callable[[], Content], what: str) -> Content:
    """The result of `fetch`, tried up to ATTEMPTS times; the last error names `what`."""
    for attempt in range(ATTEMPTS):
        try:
            return fetch()
        except FileNotFoundError as error:
            raise ValueError(f"{error}: {what}") from error
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in REFUSED:
                raise
            if attempt == ATTEMPTS - 1:
                kind = ValueError if isinstance(error, ValueError) else OSError
                raise kind(f"{what}: {error} ({ATTEMPTS} attempts)") from error
            logger.warning("%s: %s; trying again", what, error)
            time.sleep(FIRST_PAUSE * 2**attempt)
    raise AssertionError


def _read_range(path: Path, entry: IndexEntry) -> bytes:
    with path.open("rb", buffering=0) as tar:
        return os.pread(tar.fileno(), entry.length, entry.offset)


def _is_own(folder: Path) -> bool:
    """Whether a folder of the cache is a data set's, by its name and its mark."""
    return bool(OWN.fullmatch(folder.name)) and (folder / LAST_USE).is_file()


def _last_use(folder: Path) -> float:
    return (folder / LAST_USE).stat().st_mtime


def _bytes_in(folder: Path) -> int:
    """Bytes of all files under a folder, whatever others remove meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
