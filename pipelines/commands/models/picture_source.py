"""Pictures of a folder or of shards, here or in an object store, and where their maps go."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from emlnet.data.images import SUFFIXES, decode_picture
from shards.files.manifest import Manifest
from shards.files.store import Store
from shards.read.reader import ShardReader


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder on this machine or in an object store."""

    url: str

    @property
    def store(self) -> Store:
        """Its files.  Raises ValueError for a URL that cannot be opened."""
        return Store(self.url)

    @property
    def local(self) -> Path | None:
        """Its path, None in an object store."""
        return Path(self.store.root) if self.store.is_local else None

    def holds(self, other: Place) -> bool:
        """Whether another place is this one or lies below it."""
        if self.local and other.local:
            return other.local.resolve().is_relative_to(self.local.resolve())
        return f"{other.url}/".startswith(f"{self.url}/")

    def names(self) -> list[str]:
        """The files below it, hidden ones left out, as relative paths in order."""
        paths = map(PurePosixPath, self.store.find())
        return sorted(str(p) for p in paths if not any(part.startswith(".") for part in p.parts))

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return self.store.read(name)

    def put(self, local: Path, name: str) -> None:
        """Brings a local file there, whole or not at all."""
        folder = self.local
        if folder is None:
            self.store.put(name, local.read_bytes())
            return
        target = folder / name
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local, temporary)
        temporary.replace(target)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is predicted: files of a folder, or the samples of shards.

    Its items are names: a relative path, or `split/position` of a sample.
    """

    place: Place
    shards: bool

    def items(self) -> Iterator[tuple[str, str]]:
        """Each picture's name and the stem of its answers."""
        if not self.shards:
            for name in self.place.names():
                if PurePosixPath(name).suffix.lower() in SUFFIXES:
                    yield name, str(PurePosixPath(name).with_suffix(""))
            return
        for split in Manifest.load(self.place.url).splits:
            for position, key in enumerate(ShardReader(self.place.url, split).keys):
                yield f"{split}/{position}", key

    def reader(self) -> PictureReader:
        """What reads them, in a worker."""
        return PictureReader(self)


class PictureReader:
    """Reads pictures by name; keeps each split's manifest."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.splits: dict[str, ShardReader] = {}

    def read(self, name: str) -> NDArray[np.uint8]:
        """(H, W, 3) uint8.  Raises ValueError that names the picture."""
        if not self.pictures.shards:
            try:
                data = self.pictures.place.read(name)
            except OSError as error:
                raise ValueError(f"{name} cannot be read: {error}") from error
            return decode_picture(data, name)
        split, _, position = name.rpartition("/")
        if split not in self.splits:
            self.splits[split] = ShardReader(self.pictures.place.url, split)
        sample = self.splits[split].sample(int(position))
        return decode_picture(sample.image, sample.key)
