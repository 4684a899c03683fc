"""The folder of an unfinished build: who may write to it, and which files may be removed.

`manifest.json.tmp` marks it and holds the build's origin.  The same build resumes with the shards
that exist.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from shards.files.manifest import CENTRE_PRIOR, MANIFEST, SCHEMA, Manifest, Origin
from shards.files.store import Store

MARKER = MANIFEST + ".tmp"
LOCK = "build.lock"
OWN_FILES = re.compile(
    rf"[^/]+-\d{{6}}\.tar(\.part\.(json|npy))?|{CENTRE_PRIOR}|{MARKER}|{MANIFEST}|{LOCK}|\.tmp-.+"
)


@contextlib.contextmanager
def unfinished(store: Store, origin: Origin) -> Iterator[None]:
    """Lock the folder for one build, and remove an unfinished build with another origin.

    After a ValueError all files of the build are removed.
    """
    is_new = store.make()
    found = store.entries()
    known = OWN_FILES if MARKER in found else re.compile(re.escape(LOCK))
    foreign = [name for name in found if not known.fullmatch(name)]
    if foreign:
        raise ValueError(
            f"{store.folder} holds {foreign[0]}, which is not from an unfinished build; "
            "choose an empty folder"
        )
    mark = json.dumps({"schema": SCHEMA, **asdict(origin)}).encode()
    with contextlib.ExitStack() as stack:
        if store.is_local:  # An object store has no locks.
            try:
                stack.enter_context(FileLock(Path(store.root, LOCK), timeout=0))
            except Timeout:
                raise ValueError(
                    f"another build is writing to {store.folder}; wait for it to end"
                ) from None
        if MARKER not in found or store.read(MARKER) != mark:
            store.remove(*(name for name in found if name not in (MARKER, LOCK)))
            store.put(MARKER, mark)
        try:
            yield
        except ValueError:
            store.remove(*(name for name in store.sizes() if OWN_FILES.fullmatch(name)))
            if is_new:
                Path(store.root).rmdir()
            raise
        except OSError as error:
            raise OSError(
                f"{error}; finished shards stay in {store.folder}, and the same command resumes"
            ) from error


def clean(store: Store, manifest: Manifest) -> None:
    """Remove the files that only the build needed, the marker last."""
    kept = {MANIFEST, MARKER, CENTRE_PRIOR, *(shard.file for shard in manifest.shards)}
    found = store.sizes()
    store.remove(*(name for name in found if OWN_FILES.fullmatch(name) and name not in kept))
    store.remove(*({MARKER} & found.keys()))
