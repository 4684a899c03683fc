"""Find folders and files of a raw data set, ignoring case."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from emlnet.data.images import files_below
from shards.files.stored_pictures import PHOTOGRAPHS


class FileNames:
    """Find files by the names in a table.

    files: each file's path, and the path below its folder of photographs.  Tries the exact name,
    then the name without its suffix, then ignores Unicode form, case and kind of slash, then drops
    leading folders.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files
        self._found: dict[tuple[int, str], set[str]] = defaultdict(set)
        for file, own in files.items():
            for name in (file, own):
                for form in enumerate(_forms(name)):
                    self._found[form].add(file)

    def find(self, name: str) -> list[str]:
        """Return the files that match a name best: none, one, or several."""
        forms = list(enumerate(_forms(name)))
        level, loosest = forms[-1]
        parts = loosest.split("/")
        forms += [(level, "/".join(parts[start:])) for start in range(1, len(parts))]
        found = next((self._found[form] for form in forms if form in self._found), set())
        return sorted(found)


def _forms(name: str) -> list[str]:
    """Return a name with and without suffix, then both in one Unicode form, case and slash."""
    plain = unicodedata.normalize("NFC", name.replace("\\", "/")).casefold().removeprefix("./")
    return [name, _stem(name), plain, _stem(plain)]


def _stem(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in PHOTOGRAPHS else name


def fingerprint(source: Path, samples: Iterable[tuple[str, ...]]) -> str:
    """Return a SHA-256 of samples (key, file, ...) and their files' sizes and times."""
    digest = hashlib.sha256()
    for key, *names in samples:
        digest.update(f"{key}\n".encode())
        for name in names:
            stat = (source / name).stat()
            digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def find_licence(source: Path) -> str | None:
    """Return the first line of the folder's file LICENSE, LICENCE or COPYING, if there is one."""
    for path in sorted(source.iterdir()):
        if path.stem.upper() in ("LICENSE", "LICENCE", "COPYING") and path.is_file():
            lines = path.read_text(errors="replace").splitlines()
            return next((line.strip("# \t")[:80] for line in lines if line.strip("# \t")), None)
    return None


def subfolders(folder: Path) -> dict[str, Path]:
    """Return the sub-folders by lower-case name; ValueError if two names are equal."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return _by(lambda path: path.name.lower(), filter(Path.is_dir, visible))


def child(folder: Path, name: str) -> Path:
    """Return the folder's sub-folder of that name, ignoring case; ValueError if missing."""
    if not has(folder, name):
        raise ValueError(f"{folder} has no folder {name}/")
    return subfolders(folder)[name.lower()]


def has(folder: Path, name: str) -> bool:
    """Whether the folder has a sub-folder of that name, ignoring case."""
    return name.lower() in subfolders(folder)


def root(source: Path, name: str) -> Path:
    """Return the sub-folder of that name if it exists, else the source itself."""
    return child(source, name) if has(source, name) else source


def has_all(source: Path, *, names: Sequence[str], within: str = "") -> bool:
    """Whether the source, or its sub-folder `within`, has all these sub-folders."""
    return all(has(root(source, within), name) for name in names)


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files directly in a folder with one of the suffixes, without hidden files."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    ]


def photographs_below(source: Path) -> list[Path]:
    """Return all photographs below a source, except those in its `maps/`."""
    return [
        path
        for path in files_below(source, PHOTOGRAPHS)
        if path.relative_to(source).parts[0].lower() != "maps"
    ]


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by their names without suffix, in order; ValueError if two are equal."""
    return _by(lambda path: path.stem, paths)


def _by(name: Callable[[Path], str], paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(paths):
        other = found.setdefault(name(path), path)
        if other != path:
            raise ValueError(f"{other} and {path} have the same name; rename one")
    return dict(sorted(found.items()))
