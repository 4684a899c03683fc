"""Folders of a raw data set, whatever the spelling of their names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def fingerprint(source: Path, samples: Iterable[tuple[str, ...]]) -> str:
    """SHA-256 over samples (key, file, ...) and their files' sizes and times; reads no content."""
    digest = hashlib.sha256()
    for key, *names in samples:
        digest.update(f"{key}\n".encode())
        for name in names:
            stat = (source / name).stat()
            digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def find_licence(source: Path) -> str | None:
    """The first line of the folder's file LICENSE, LICENCE or COPYING; None when there is none."""
    for path in sorted(source.iterdir()):
        if path.stem.upper() in ("LICENSE", "LICENCE", "COPYING") and path.is_file():
            lines = path.read_text(errors="replace").splitlines()
            return next((line.strip("# \t")[:80] for line in lines if line.strip("# \t")), None)
    return None


def child(folder: Path, name: str) -> Path:
    """The folder's sub-folder of that name, in any spelling of case; ValueError when missing."""
    found = subfolders(folder)
    if name.lower() not in found:
        raise ValueError(f"{folder} has no folder {name}/")
    return found[name.lower()]


def has(folder: Path, *names: str) -> bool:
    """Whether the folder has the sub-folder `names[0]`, that one `names[1]`, and so on."""
    for name in names:
        folders = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
        if name.lower() not in folders:
            return False
        folder = folders[name.lower()]
    return True


def subfolders(folder: Path) -> dict[str, Path]:
    """The folder's sub-folders by their names in lower case."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            if path.name.lower() in found:
                raise ValueError(f"{found[path.name.lower()]} and {path} are one folder; join them")
            found[path.name.lower()] = path
    return found


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The folder's files with one of the suffixes, in any spelling of case."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            if path.stem in found:
                raise ValueError(f"{found[path.stem]} and {path} have the same name; rename one")
            found[path.stem] = path
    return found
