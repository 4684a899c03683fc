"""Folders of a raw data set, whatever the spelling of their names."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


class FileNames:
    """Files by the names that a table may call them.

    files: each file and its own name, a path.  A name that no file has exactly is looked for
    without its suffix, then whatever its Unicode form, case and slashes, then without the folders
    of another machine before it.
    """

    def __init__(self, files: Mapping[str, str], suffixes: Sequence[str]) -> None:
        self.files, self.suffixes = files, tuple(suffixes)
        self._found: dict[tuple[int, str], set[str]] = defaultdict(set)
        for file, own in files.items():
            for name in (file, own):
                for level, form in enumerate(self._forms(name)):
                    self._found[level, form].add(file)

    def find(self, name: str) -> list[str]:
        """The files that fit a name best: none, one, or several."""
        exact, stem, *loose = self._forms(name)
        for key in ((0, exact), (1, exact), (1, stem), (2, loose[0]), (3, loose[0]), (3, loose[1])):
            if key in self._found:
                return sorted(self._found[key])
        parts = loose[1].split("/")
        for start in range(1, len(parts)):
            if found := self._found.get((3, "/".join(parts[start:]))):
                return sorted(found)
        return []

    def _forms(self, name: str) -> list[str]:
        """The name, then without suffix; both again in one Unicode form, case and slash."""
        plain = unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()
        plain = plain.removeprefix("./")
        return [name, self._stem(name), plain, self._stem(plain)]

    def _stem(self, name: str) -> str:
        stem, dot, suffix = name.rpartition(".")
        return stem if f"{dot}{suffix}".lower() in self.suffixes else name


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
