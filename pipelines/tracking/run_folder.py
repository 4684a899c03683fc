"""A run's own folder: what is done is found again, what is somebody else's is left alone."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from emlnet.inference.package import MODEL
from emlnet.registry.mlflow_registry import PACKAGE

IDENTITY, RESULT, LOCK = "run.json", "result.json", "lock"
_held: dict[Path, TextIO] = {}
"""The locks of this process, which end with it."""


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a training stage gave.

    name: what it is called in tables.  run_id: its MLflow run.  package: folder of the packaged
    model.  epoch: the best, which was kept.  scores: of that epoch on val.  seconds: wall time.
    """

    name: str
    run_id: str
    package: Path
    epoch: int
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def open_folder(folder: Path, identity: dict[str, Any]) -> Path:
    """Makes or re-opens a run's folder, absolute.

    identity: what makes the run this one; JSON values.  Raises ValueError when the folder holds
    another run or anything else, or another process works in it.
    """
    folder = folder.absolute()
    marker = folder / IDENTITY
    if marker.is_file():
        found = json.loads(marker.read_text())
        if found != json.loads(json.dumps(identity)):
            changed = [k for k in identity if found.get(k) != json.loads(json.dumps(identity[k]))]
            raise ValueError(
                f"{folder} holds another run ({', '.join(changed)} differ); name another --out, "
                "or delete the folder"
            )
    elif folder.exists() and {path.name for path in folder.iterdir()} - {LOCK}:
        raise ValueError(f"{folder} holds something that is no run; name another --out")
    folder.mkdir(parents=True, exist_ok=True)
    _hold(folder)
    if not marker.is_file():
        write_json(marker, identity)
    return folder


def _hold(folder: Path) -> None:
    """Keeps other processes out of a run's folder until this one ends, however it does."""
    if folder in _held:
        return
    lock = (folder / LOCK).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        raise ValueError(
            f"{holder} works in {folder}; wait for it, or name another --out"
        ) from None
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    _held[folder] = lock


def write_json(path: Path, content: Any) -> None:
    """Writes JSON whole or not at all; makes the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1, default=str))
    temporary.replace(path)


def save_result(folder: Path, result: StageResult) -> None:
    """Marks a stage as done."""
    write_json(folder / RESULT, asdict(result))


def find_result(folder: Path) -> StageResult | None:
    """What a stage gave, when it is done and its model is still there."""
    path = folder / RESULT
    if not path.is_file() or not (folder / PACKAGE / MODEL).is_file():
        return None
    return StageResult(**{**json.loads(path.read_text()), "package": folder / PACKAGE})
