"""The folder of a build that is not finished: who may write to it, and what may be removed.

`manifest.json.tmp` marks it and tells of what build; the same one resumes with what is there.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from shards.build.parts import TEMPORARY
from shards.files.manifest import CENTRE_PRIOR, MANIFEST, SCHEMA, Manifest, Origin
from shards.files.store import Store

MARKER = MANIFEST + TEMPORARY
LOCK = "build.lock"
OWN_FILES = re.compile(
    rf"([^/]+-\d{{6}}\.tar(\.part\.(json|npy))?|{CENTRE_PRIOR}|{MANIFEST})(\.tmp)?|{LOCK}|\.tmp-.+"
)


@contextlib.contextmanager
def unfinished(store: Store, origin: Origin) -> Iterator[None]:
    """Claims the folder for one build; clears what another left, and all if the input is bad."""
    is_new = store.make()
    found = store.entries()
    known = OWN_FILES if MARKER in found else re.compile(re.escape(LOCK))
    foreign = [name for name in found if not known.fullmatch(name)]
    if foreign:
        raise ValueError(
            f"{store.folder} holds {foreign[0]}, which no unfinished build left; "
            "choose an empty folder"
        )
    mark = json.dumps({"schema": SCHEMA, **asdict(origin)}).encode()
    with _locked(store):
        if MARKER not in found or store.read(MARKER) != mark:
            store.remove(*(name for name in found if name not in (MARKER, LOCK)))
            with store.writing(MARKER) as marker:
                marker.write(mark)
        try:
            yield
        except ValueError:
            store.remove(*(name for name in store.sizes() if OWN_FILES.fullmatch(name)))
            if is_new:
                store.unmake()
            raise
        except OSError as error:
            raise OSError(
                f"{error}; what is finished stays in {store.folder}: the same command resumes it"
            ) from error


@contextlib.contextmanager
def _locked(store: Store) -> Iterator[None]:
    """Keeps other builds of this machine out; an object store has no locks."""
    if not store.is_local:
        yield
        return
    try:
        with FileLock(Path(store.root, LOCK), timeout=0):
            yield
    except Timeout:
        raise ValueError(
            f"another build is writing to {store.folder}; wait for it to end"
        ) from None


def clean(store: Store, manifest: Manifest) -> None:
    """Removes what a build needed and its result does not, the marker last."""
    kept = {MANIFEST, MARKER, CENTRE_PRIOR, *(shard.file for shard in manifest.shards)}
    found = store.sizes()
    store.remove(*(name for name in found if OWN_FILES.fullmatch(name) and name not in kept))
    store.remove(*({MARKER} & found.keys()))
