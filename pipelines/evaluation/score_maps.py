"""Maps of any model from files: pictures, .npy, .mat, or one HDF5 file of log-densities.

A saliency map has no scale of its own: it is divided by its greatest value, so 8 and 16 bits of a
picture keep their levels and count alike.
"""

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

from emlnet.data.images import MAX_PIXELS, open_picture
from emlnet.data.maps import resize
from pipelines.evaluation.sources import ScoredMap, SplitImage
from shards.files.mat_files import read_matrix

MapKind = Literal["saliency", "density", "log-density"]
"""What the values are: `saliency`, any scale; `density`, >= 0 with a sum of 1; `log-density`,
natural log, exp sums to 1."""

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
IN_FOLDERS = (*PICTURES, ".npy", ".mat")
"""Formats of maps that are a file each."""
HDF5 = (".h5", ".hdf5", ".hdf")
SUFFIX = "_smap"
"""What `emlnet predict` puts after a picture's name."""
SUM_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class MapFiles:
    """The maps of a split, one an image, as a source of rows.

    path: a folder of files, or an HDF5 file.  places: for each image in order its file, relative to
    the folder, or its data set in the HDF5 file.  surplus: files that belong to no image.
    unknown: files of a format that is not read.
    """

    name: str
    path: Path
    places: tuple[str, ...]
    surplus: tuple[str, ...]
    unknown: tuple[str, ...]
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
        unknown: list[str] = []
        if path.is_file() and path.suffix.lower() not in HDF5:
            raise ValueError(
                f"unknown format: {path.name}, known: a folder of {', '.join(IN_FOLDERS)}, or one "
                f"file {', '.join(HDF5)}"
            )
        if path.is_file():
            known = _data_sets(path)
        elif path.is_dir():
            split = path / keys[0].split("/")[0]
            path = split if split.is_dir() else path
            names = [file.relative_to(path).as_posix() for file in list_files(path)]
            known = [name for name in names if is_map(name)]
            unknown = [name for name in names if not is_map(name)]
        else:
            raise ValueError(f"{path} does not exist: expected a folder of maps or an HDF5 file")
        places, surplus = _pair(path, keys, known, unknown)
        default: MapKind = "log-density" if path.is_file() else "saliency"
        return cls(
            name=name,
            path=path,
            places=places,
            surplus=surplus,
            unknown=tuple(unknown),
            kind=kind or default,
            resize=resize,
        )

    @property
    def notes(self) -> list[str]:
        """What was not scored, counted and named."""
        notes = []
        if self.surplus:
            notes.append(
                f"{len(self.surplus)} maps in {self.path} belong to no image of the split (first: "
                f"{self.surplus[0]}): left out"
            )
        if self.unknown:
            notes.append(f"left out of {self.path}: {_unknown_formats(self.unknown)}")
        return notes

    def to(self, device: torch.device) -> MapFiles:
        """Return the source itself: its maps go to the device of the image's targets."""
        return self

    def rows(self, shown: SplitImage) -> Iterable[ScoredMap]:
        """Return the map of an image.  Raises ValueError that names the file at fault."""
        targets = shown.targets
        maps = self.read(shown.position, targets.size).to(targets.density.device)
        if self.kind == "saliency":
            yield ScoredMap(name=self.name, saliency=maps, log_density=None)
        elif self.kind == "density":
            yield ScoredMap(name=self.name, saliency=maps, log_density=maps.log())
        else:
            yield ScoredMap(name=self.name, saliency=maps.exp(), log_density=maps)

    def read(self, position: int, size: tuple[int, int]) -> Tensor:
        """Read and check the map of a position: (1, 1, H, W) float32 or float64."""
        place = self.places[position]
        where = f"{self.path}: {place}" if self.path.is_file() else str(self.path / place)
        values = self._load(place, where)
        if values.ndim > 2 and values.size == math.prod(values.shape[-2:]):
            values = values.reshape(values.shape[-2:])
        if values.ndim != 2:
            raise ValueError(f"{where} is {values.shape}, expected a map (H, W)")
        self._check(values, where)
        if self.kind == "saliency" and values.max() > 0:
            values = values / values.max()
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
                data = file[place]
                if data.external or data.size > MAX_PIXELS:
                    raise ValueError(f"{where} is {data.shape}, or lies in another file")
                values = np.asarray(data)
        elif place.lower().endswith(".npy"):
            values = _read_npy(self.path / place)
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
                f"{where} has {bad.sum()} values that are not finite (first: "
                f"{values[y, x]} at row {y}, column {x})"
            )
        if self.kind == "saliency":
            return
        wide = values.astype(np.float64)
        if self.kind == "density" and values.min() < 0:
            raise ValueError(f"{where} is not a density: it has values down to {values.min()}")
        total = float((np.exp(wide) if self.kind == "log-density" else wide).sum())
        if not abs(total - 1) <= SUM_TOLERANCE:
            raise ValueError(
                f"{where} is not a {self.kind}: it sums to {total:.4g}, expected 1; "
                "say what its values are with --kind"
            )


def list_files(folder: Path) -> list[Path]:
    """Return the files below a folder in order, without hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def is_map(name: str) -> bool:
    """Whether a file's suffix is that of a map."""
    return name.lower().endswith(IN_FOLDERS)


def _unknown_formats(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"unknown format: {names[0]}{more}, known: {', '.join(IN_FOLDERS)}"


def _read_npy(path: Path) -> NDArray[np.generic]:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, np.ndarray) or values.size > MAX_PIXELS:
        raise ValueError(f"{path} is not a map: found {getattr(values, 'shape', type(values))}")
    return np.array(values)


def _data_sets(path: Path) -> list[str]:
    """Return the names of all datasets of an HDF5 file, in groups too."""
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
    path: Path, keys: Sequence[str], known: Sequence[str], unknown: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find each image's map among those known; return their places, and those of no image."""
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
            + (f"; {_unknown_formats(unknown)}" if unknown else "")
            + ("; names must be those of the pictures" if known else "")
        )
    return tuple(found[position] for position in range(len(keys))), tuple(surplus)
