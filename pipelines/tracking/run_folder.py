"""A run's folder: its identity, its lock and the results of finished stages."""

from __future__ import annotations

import json
import logging
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from emlnet.atomic_files import write_text
from emlnet.inference.package import MODEL
from emlnet.registry.mlflow_registry import PACKAGE

logger = logging.getLogger(__name__)

IDENTITY, RESULT, LOCK, OWNER = "run.json", "result.json", "lock", "owner"
_held: dict[Path, FileLock] = {}
"""Locks that this process holds until it ends."""


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The result of a training stage.

    name: shown in tables.  run_id: its MLflow run.  package: folder of the packaged model.
    epoch: the kept one.  scores: that epoch's scores on val.  seconds: wall time.
    """

    name: str
    run_id: str
    package: Path
    epoch: int
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def open_folder(folder: Path, identity: dict[str, Any]) -> Path:
    """Create or reopen a run's folder; return its absolute path.

    identity: JSON values that identify the run.  Raises ValueError if the folder holds another run
    or other files, or another process uses it.
    """
    folder = folder.absolute()
    marker = folder / IDENTITY
    if marker.is_file():
        if not marker.read_text().strip():
            raise ValueError(
                f"{marker} is empty (the machine may have crashed): delete it and the folder's "
                "other files, or name another --out"
            )
        found, wanted = json.loads(marker.read_text()), json.loads(json.dumps(identity))
        if found != wanted:
            changed = ", ".join(key for key in wanted if found.get(key) != wanted[key])
            raise ValueError(
                f"{folder} holds another run ({changed} differ); name another --out, or delete "
                "the folder"
            )
    elif folder.exists() and {path.name for path in folder.iterdir()} - {LOCK, OWNER}:
        raise ValueError(f"{folder} holds files that are not a run's; name another --out")
    folder.mkdir(parents=True, exist_ok=True)
    _hold(folder)
    if not marker.is_file():
        write_json(marker, identity)
    return folder


def _hold(folder: Path) -> None:
    """Lock a run's folder until this process ends."""
    if folder in _held:
        return
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        owner = folder / OWNER
        name = owner.read_text() if owner.is_file() else "another process"
        raise ValueError(f"{folder} is in use by {name}; wait, or name another --out") from None
    _held[folder] = lock
    write_text(folder / OWNER, f"process {os.getpid()} on {socket.gethostname()}")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; create its folder if missing."""
    write_text(path, json.dumps(content, indent=1, default=str))


def read_json(path: Path) -> Any | None:
    """Read a JSON file; None if it is missing, or empty, which is logged."""
    if not path.is_file():
        return None
    text = path.read_text()
    if not text.strip():
        logger.warning("%s is empty (the machine may have crashed); it counts as missing", path)
        return None
    return json.loads(text)


def save_result(folder: Path, result: StageResult) -> None:
    """Save a stage's result, which marks the stage as done."""
    write_json(folder / RESULT, asdict(result))


def find_result(folder: Path) -> StageResult | None:
    """Return a finished stage's result; None if it is unfinished or its model is missing."""
    found = read_json(folder / RESULT)
    if found is None or not (folder / PACKAGE / MODEL).is_file():
        return None
    return StageResult(**{**found, "package": folder / PACKAGE})
