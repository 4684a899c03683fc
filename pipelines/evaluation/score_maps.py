"""Anyone's maps from files, as rows to score: pictures, npy, mat, or HDF5 of log-densities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emlnet.data.images import open_picture
from emlnet.data.maps import resize
from pipelines.evaluation.sources import Row, Shown
from shards.files.mat_files import read_matrix

MapKind = Literal["saliency", "density", "log-density"]
"""What the values are: `saliency`, any scale; `density`, >= 0 with a sum of 1; `log-density`,
natural log, exp sums to 1."""

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAPS = (*PICTURES, ".npy", ".mat")
HDF5 = (".h5", ".hdf5", ".hdf")
SUFFIX = "_smap"
"""What `emlnet predict` puts after a picture's name."""
SUM_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class MapFiles:
    """The maps of a split, one an image, as a source of rows.

    path: a folder of files, or an HDF5 file.  places: for each image in order its file, relative to
    the folder, or its data set in the HDF5 file.  surplus: files that belong to no image.
    """

    name: str
    path: Path
    places: tuple[str, ...]
    surplus: tuple[str, ...]
    kind: MapKind
    resize: bool

    @classmethod
    def find(
        cls, path: Path, keys: Sequence[str], kind: MapKind | None = None, resize: bool = False
    ) -> MapFiles:
        """Pairs maps with images by name, with or without `_smap` at its end.

        path: a folder, or its part for the split, or an HDF5 file.  keys: of the images,
        `split/stem`.  kind: default log-density for HDF5, saliency for all else.  resize: maps of
        other sizes are resized, else refused.
        Raises ValueError for an image without a map or with two.
        """
        path = path.absolute()
        name = path.stem if path.is_file() else path.name
        if path.is_file() and path.suffix.lower() not in HDF5:
            raise ValueError(f"{path} is neither a folder of maps nor an HDF5 file (.h5, .hdf5)")
        if path.is_file():
            known = _data_sets(path)
        elif path.is_dir():
            split = path / keys[0].split("/")[0]
            path = split if split.is_dir() else path
            known = sorted(
                file.relative_to(path).as_posix()
                for file in path.rglob("*")
                if file.suffix.lower() in MAPS
            )
        else:
            raise ValueError(f"{path} does not exist: expected a folder of maps or an HDF5 file")
        places, surplus = _pair(path, keys, known)
        default: MapKind = "log-density" if path.is_file() else "saliency"
        return cls(
            name=name,
            path=path,
            places=places,
            surplus=surplus,
            kind=kind or default,
            resize=resize,
        )

    @property
    def notes(self) -> list[str]:
        """What was not scored."""
        if not self.surplus:
            return []
        return [
            f"{len(self.surplus)} maps in {self.path} belong to no image of the split (first: "
            f"{self.surplus[0]}): left out"
        ]

    def to(self, device: torch.device) -> MapFiles:
        """The same; its maps follow the image's targets."""
        return self

    def rows(self, shown: Shown) -> Iterable[Row]:
        """The map of an image.  Raises ValueError that names the file at fault."""
        targets = shown.targets
        maps = self.read(shown.position, targets.size).to(targets.density.device)
        if self.kind == "saliency":
            yield Row(name=self.name, saliency=maps, log_density=None)
        elif self.kind == "density":
            yield Row(name=self.name, saliency=maps, log_density=maps.log())
        else:
            yield Row(name=self.name, saliency=maps.exp(), log_density=maps)

    def read(self, position: int, size: tuple[int, int]) -> Tensor:
        """The map (1, 1, H, W) at a position, checked, float32 or float64."""
        place = self.places[position]
        where = f"{self.path}: {place}" if self.path.is_file() else str(self.path / place)
        values = self._load(place, where)
        if values.ndim > 2 and values.size == math.prod(values.shape[-2:]):
            values = values.reshape(values.shape[-2:])
        if values.ndim != 2:
            raise ValueError(f"{where} is {values.shape}, expected a map (H, W)")
        self._check(values, where)
        maps = torch.from_numpy(values)[None, None]
        if values.shape != size:
            if not self.resize:
                raise ValueError(
                    f"{where} is {values.shape[0]} x {values.shape[1]}, its picture "
                    f"{size[0]} x {size[1]}; give --resize to have maps resized"
                )
            if self.kind == "log-density":
                density = resize(maps.double().exp(), size)
                maps = (density / density.sum()).log().to(maps)
            else:
                maps = resize(maps, size)
        return maps / maps.sum() if self.kind == "density" else maps

    def _load(self, place: str, where: str) -> NDArray[np.floating]:
        if self.path.is_file():
            with h5py.File(self.path) as file:
                values = np.asarray(file[place])
        elif place.lower().endswith(".npy"):
            try:
                values = np.load(self.path / place, allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise ValueError(f"{where} cannot be read: {error}") from error
        elif place.lower().endswith(".mat"):
            values = read_matrix(self.path / place, where)
        else:
            image = open_picture((self.path / place).read_bytes(), where)
            grey = image.mode in ("L", "F") or image.mode.startswith("I")
            values = np.array(image if grey else image.convert("L"))
        if values.dtype.kind not in "fiub":
            raise ValueError(f"{where} holds {values.dtype}, expected numbers")
        wide = values.dtype in (np.float64, np.int32, np.int64, np.uint32, np.uint64)
        return np.ascontiguousarray(values, np.float64 if wide else np.float32)

    def _check(self, values: NDArray[np.floating], where: str) -> None:
        bad = np.isnan(values) | np.isposinf(values)
        if self.kind != "log-density":
            bad |= np.isneginf(values)
        if bad.any():
            y, x = np.argwhere(bad)[0]
            raise ValueError(
                f"{where} has {bad.sum()} values that are no finite numbers (first: "
                f"{values[y, x]} at row {y}, column {x})"
            )
        if self.kind == "saliency":
            return
        wide = values.astype(np.float64)
        if self.kind == "density" and values.min() < 0:
            raise ValueError(f"{where} is no density: it has values down to {values.min()}")
        total = float((np.exp(wide) if self.kind == "log-density" else wide).sum())
        if not abs(total - 1) <= SUM_TOLERANCE:
            raise ValueError(
                f"{where} is no {self.kind}: it sums to {total:.4g}, expected 1; "
                "name what it is with --kind"
            )


def _data_sets(path: Path) -> list[str]:
    """The names of all data sets in an HDF5 file, in groups too."""
    found: list[str] = []
    try:
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
            )
    except OSError as error:
        raise ValueError(f"{path} cannot be read as HDF5: {error}") from error
    return sorted(found)


def _pair(
    path: Path, keys: Sequence[str], known: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The place of each image's map among those known, and the places of no image."""
    stems = {key.split("/", 1)[1]: position for position, key in enumerate(keys)}
    found: dict[int, str] = {}
    surplus = []
    for place in known:
        # A picture in a folder is called after both: Action/001.jpg is Action-001.
        whole = str(PurePosixPath(place).with_suffix("")).strip("/").replace("/", "-")
        named = whole, Path(place).stem
        names = [*named, *(name.removesuffix(SUFFIX) for name in named)]
        stem = next((name for name in names if name in stems), None)
        if stem is None:
            surplus.append(place)
            continue
        position = stems[stem]
        if position in found:
            raise ValueError(
                f"{path} has two maps for {keys[position]}: {found[position]} and {place}"
            )
        found[position] = place
    missing = [key for position, key in enumerate(keys) if position not in found]
    if missing:
        raise ValueError(
            f"{path} has no map for {len(missing)} of {len(keys)} images (first: {missing[0]}); "
            f"it holds {len(known)} maps, {len(surplus)} of them of no image of the split"
            + (f" (first: {surplus[0]})" if surplus else "")
            + f"; names must be those of the pictures, files {', '.join(MAPS)}"
        )
    return tuple(found[position] for position in range(len(keys))), tuple(surplus)
