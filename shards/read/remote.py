"""Read the bytes of samples: from a local folder, or from an object store with a bounded cache.

The processes of a node share the cache.  Shards that fit are fetched once, checked against the
manifest, and then read locally.  Samples of other shards are read with range requests: the order is
random, so a cache with eviction would fetch each shard many times an epoch.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock

from shards.files.manifest import IndexEntry, Manifest, Shard, check_record
from shards.files.store import Store

logger = logging.getLogger(__name__)

CACHE = "EMLNET_SHARD_CACHE"
CACHE_BYTES = "EMLNET_SHARD_CACHE_GB"
DEFAULT_CACHE = "~/.cache/emlnet/shards"
DEFAULT_GB = 50.0
PAUSES = (0.25, 0.5, 1.0)
"""Seconds before each retry."""
MARK = "last-use"
"""File in a data set's cache folder: holds its quota in bytes; modified at each use."""
IN_USE = 3600
"""Seconds after its last use before a data set may be removed from the cache."""
OWN = re.compile(r"[0-9a-f]{32}")
"""Names of the cache's folders, one per data set."""

Result = TypeVar("Result")


class ShardFiles:
    """The shards of one data set, here or in an object store.

    EMLNET_SHARD_CACHE names the cache folder, EMLNET_SHARD_CACHE_GB its size.  Other files in that
    folder are neither counted nor touched.
    """

    def __init__(self, folder: Path | str, manifest: Manifest) -> None:
        self.store = Store(folder)
        self.manifest = manifest
        self.cache = Path(os.environ.get(CACHE) or DEFAULT_CACHE).expanduser().absolute()
        self.folder = self.cache / manifest.digest[:32]
        self.limit = 0 if self.store.is_local else cache_limit()
        self._cached: set[str] | None = None

    def read(self, shard: Shard, entry: IndexEntry) -> bytes:
        """Return a sample's bytes.

        Raises ValueError naming shard and sample if they are missing or changed, OSError if the
        store does not answer.
        """
        place = self.store.place(shard.file)
        if self.store.is_local:
            return _read_range(Path(self.store.root, shard.file), entry, place)
        what = f"{place}, for sample {entry.key}"
        path = self._cached_file(shard, what)
        if path is not None:
            try:
                return _read_range(path, entry, place)
            except (OSError, ValueError):
                logger.warning("%s was changed in the cache; it is fetched again", path)
                path.unlink(missing_ok=True)

        def fetch() -> bytes:
            record = self.store.read(shard.file, entry.offset, entry.offset + entry.length)
            if len(record) == shard.num_bytes:  # The server ignored the range.
                record = record[entry.offset : entry.offset + entry.length]
            check_record(record, entry, place)
            return record

        return _retry(fetch, what)

    def _cached_file(self, shard: Shard, what: str) -> Path | None:
        """Return the shard's file in the cache, fetched if needed; None if it does not fit."""
        path = self.folder / shard.file
        try:
            if self._cached is None:
                self._cached = self._reserve()
            if shard.file not in self._cached:
                return None
            os.utime(self.folder / MARK)
            if not path.is_file():
                with FileLock(path.with_name(f"{shard.file}.lock")):
                    if not path.is_file():
                        _retry(lambda: self._fetch(shard, path), what)
        except OSError as error:
            if error.errno is None:  # An error of the store; those of the disk have a number.
                raise
            logger.warning("%s cannot be cached: %s; its samples are read one by one", path, error)
            self._cached = set()
            return None
        return path

    def _reserve(self) -> set[str]:
        """Remove unused data sets if space is needed; return the shards that fit the cache."""
        shards = self.manifest.shards
        ends = np.cumsum([shard.num_bytes for shard in shards]).tolist()
        mark = self.folder / MARK
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.cache / ".lock"):
            mark.touch()
            marks = [
                path for path in self.cache.glob(f"*/{MARK}") if OWN.fullmatch(path.parent.name)
            ]
            taken = {path: int(path.read_text() or 0) for path in marks}
            room = self.limit - sum(taken.values()) + taken[mark]
            for other in sorted(taken.keys() - {mark}, key=lambda path: path.stat().st_mtime):
                if room < ends[-1] and other.stat().st_mtime < time.time() - IN_USE:
                    room += taken[other]
                    shutil.rmtree(other.parent)
                    logger.info("removed %s from the cache", other.parent)
            own = max(taken[mark], *(end for end in (0, *ends) if end <= room), 0)
            mark.write_text(str(own))
        return {shard.file for shard, end in zip(shards, ends, strict=True) if end <= own}

    def _fetch(self, shard: Shard, path: Path) -> None:
        """Fetch a shard to a temporary file, check it, and rename it."""
        part = path.with_name(f"{shard.file}.part")
        try:
            self.store.download(shard.file, part)
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != shard.sha256:
                raise ValueError("it has changed or is truncated: its checksum differs")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def cache_limit() -> int:
    """Return the cache's size limit in bytes; ValueError if the environment's is not a number."""
    text = os.environ.get(CACHE_BYTES) or str(DEFAULT_GB)
    try:
        return int(max(0.0, float(text)) * 1e9)
    except (ValueError, OverflowError):
        raise ValueError(f"{CACHE_BYTES} must be a number of gigabytes, not {text!r}") from None


def _retry(fetch: Callable[[], Result], what: str) -> Result:
    """Call `fetch`, again after each of PAUSES if it fails; the last error names `what`."""
    for pause in (*PAUSES, None):
        try:
            return fetch()
        except FileNotFoundError as error:
            raise ValueError(f"{what}: {error}") from error
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            if pause is None:
                kind = OSError if isinstance(error, OSError) else ValueError
                raise kind(f"{what}: {error} ({len(PAUSES) + 1} attempts)") from error
            logger.warning("%s: %s; trying again", what, error)
            time.sleep(pause)
    raise AssertionError


def _read_range(path: Path, entry: IndexEntry, place: str) -> bytes:
    """Return a sample's bytes from its shard; ValueError if they do not match the manifest."""
    try:
        with path.open("rb", buffering=0) as tar:
            record = os.pread(tar.fileno(), entry.length, entry.offset)
    except FileNotFoundError as error:
        raise ValueError(f"{place} is missing: it holds sample {entry.key}") from error
    check_record(record, entry, place)
    return record
