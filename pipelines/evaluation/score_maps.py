"""Maps of any model from files: pictures, .npy, .mat, or one HDF5 file of log-densities.

A saliency map is divided by its maximum, so that 8-bit and 16-bit files score alike.
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

from emlnet.data.images import MAX_PIXELS, files_below, open_picture
from emlnet.data.maps import resize
from pipelines.evaluation.sources import ScoredMap, SplitImage
from shards.files.mat_files import read_matrix

MapKind = Literal["saliency", "density", "log-density"]
"""Kind of values: `saliency`, any scale; `density`, >= 0 with a sum of 1; `log-density`,
natural log, exp sums to 1."""

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
IN_FOLDERS = (*PICTURES, ".npy", ".mat")
"""Formats with one map per file."""
HDF5 = (".h5", ".hdf5", ".hdf")
SUFFIX = "_smap"
"""Suffix that `emlnet predict` adds to a picture's name."""
SUM_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class MapFiles:
    """The maps of a split, one per image.

    path: a folder or an HDF5 file.  places: per image, the file's path in the folder or the dataset
    in the HDF5 file.  notes: on files that are not scored.
    """

    name: str
    path: Path
    places: tuple[str, ...]
    notes: list[str]
    kind: MapKind
    resize: bool

    @classmethod
    def find(
        cls, path: Path, keys: Sequence[str], kind: MapKind | None = None, resize: bool = False
    ) -> MapFiles:
        """Match maps to images by name, with or without the suffix `_smap`.

        path: a folder, with or without subfolders of splits, or an HDF5 file.  keys: `split/stem`
        of each image.  kind: default: log-density for HDF5, else saliency.  resize: resize maps of
        another size than their image, else refuse them.
        Raises ValueError for an image without a map or with two.
        """
        path = path.absolute()
        is_file, name = path.is_file(), path.stem if path.is_file() else path.name
        unknown: list[str] = []
        if is_file and path.suffix.lower() not in HDF5:
            raise ValueError(
                f"unknown format: {path.name}, known: a folder of {', '.join(IN_FOLDERS)}, or one "
                f"file {', '.join(HDF5)}"
            )
        if is_file:
            known = _data_sets(path)
        elif path.is_dir():
            split = path / keys[0].split("/")[0]
            path = split if split.is_dir() else path
            names = [file.relative_to(path).as_posix() for file in files_below(path)]
            known = [name for name in names if name.lower().endswith(IN_FOLDERS)]
            unknown = [name for name in names if name not in known]
        else:
            raise ValueError(f"{path} does not exist: expected a folder of maps or an HDF5 file")
        places, notes = _pair(path, keys, known, unknown)
        return cls(
            name=name,
            path=path,
            places=places,
            notes=notes,
            kind=kind or ("log-density" if is_file else "saliency"),
            resize=resize,
        )

    def rows(self, split_image: SplitImage) -> Iterable[ScoredMap]:
        """Yield the map of an image.  Raises ValueError that names a faulty file."""
        targets = split_image.targets
        maps = self.read(split_image.position, targets.size).to(targets.density.device)
        if self.kind == "saliency":
            yield ScoredMap(name=self.name, saliency=maps, log_density=None)
        elif self.kind == "density":
            yield ScoredMap(name=self.name, saliency=maps, log_density=maps.log())
        else:
            yield ScoredMap(name=self.name, saliency=maps.exp(), log_density=maps)

    def read(self, position: int, size: tuple[int, int]) -> Tensor:
        """Read and check the map of a position: (1, 1, H, W) float64."""
        place = self.places[position]
        where = f"{self.path}: {place}" if self.path.is_file() else str(self.path / place)
        values = self._load(place, where)
        if values.dtype.kind not in "fiub":
            raise ValueError(f"{where} holds {values.dtype}, expected numbers")
        if values.ndim > 2 and values.size == math.prod(values.shape[-2:]):
            values = values.reshape(values.shape[-2:])
        if values.ndim != 2:
            raise ValueError(f"{where} is {values.shape}, expected a map (H, W)")
        numbers = values.astype(np.float64)
        self._check(numbers, where)
        maps = torch.from_numpy(numbers)[None, None]
        if numbers.shape != size:
            if not self.resize:
                raise ValueError(
                    f"{where} is {values.shape[0]} x {values.shape[1]}, its picture "
                    f"{size[0]} x {size[1]}; pass --resize to resize maps"
                )
            if self.kind == "log-density":
                density = resize(maps.exp(), size).double()
                return (density / density.sum()).log()
            maps = resize(maps, size).double()
        if self.kind == "density":
            return maps / maps.sum()
        return maps / maps.max() if self.kind == "saliency" and maps.max() > 0 else maps

    def _load(self, place: str, where: str) -> NDArray[np.generic]:
        if self.path.is_file():
            with h5py.File(self.path) as file:
                data = file[place]
                if data.external or data.size > MAX_PIXELS:
                    raise ValueError(f"{where} is {data.shape}, or is in another file")
                return np.asarray(data)
        if place.lower().endswith(".npy"):
            return _read_npy(self.path / place)
        if place.lower().endswith(".mat"):
            return read_matrix(self.path / place, where)
        image = open_picture((self.path / place).read_bytes(), where)
        grey = image.mode in ("L", "F") or image.mode.startswith("I")
        return np.array(image if grey else image.convert("L"))

    def _check(self, values: NDArray[np.float64], where: str) -> None:
        """Raise ValueError unless a map is finite, and a density >= 0 with a sum of 1."""
        linear = np.exp(values) if self.kind == "log-density" else values
        bad = ~np.isfinite(linear)
        if bad.any():
            y, x = np.argwhere(bad)[0]
            raise ValueError(
                f"{where} has {bad.sum()} values that are not finite (first: "
                f"{values[y, x]} at row {y}, column {x})"
            )
        if self.kind == "saliency":
            return
        if linear.min() < 0:
            raise ValueError(f"{where} is not a density: it has values down to {linear.min()}")
        if not abs(linear.sum() - 1) <= SUM_TOLERANCE:
            raise ValueError(
                f"{where} is not a {self.kind}: it sums to {linear.sum():.4g}, expected 1; "
                "name the kind of its values with --kind"
            )


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
) -> tuple[tuple[str, ...], list[str]]:
    """Match maps to images; return their places in the images' order, and notes."""
    stems = {key.split("/", 1)[1]: key for key in keys}
    found: dict[str, str] = {}
    surplus = []
    for place in known:
        # A sample's name joins subfolder and file: Action/001.jpg is Action-001.
        whole = str(PurePosixPath(place).with_suffix("")).strip("/").replace("/", "-")
        named = whole, Path(place).stem
        names = [*named, *(name.removesuffix(SUFFIX) for name in named)]
        key = next((stems[name] for name in names if name in stems), None)
        if key is None:
            surplus.append(place)
        elif key in found:
            raise ValueError(f"{path} has two maps for {key}: {found[key]} and {place}")
        else:
            found[key] = place
    left_out = []
    if surplus:
        left_out.append(
            f"{len(surplus)} maps that match no image of the split (first: {surplus[0]})"
        )
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        left_out.append(f"unknown format: {unknown[0]}{more}, known: {', '.join(IN_FOLDERS)}")
    if missing := [key for key in keys if key not in found]:
        raise ValueError(
            f"{path} has no map for {len(missing)} of {len(keys)} images (first: {missing[0]}); "
            "a map must have its picture's name"
            + "".join(f"; left out: {note}" for note in left_out)
        )
    return tuple(found[key] for key in keys), [f"left out of {path}: {note}" for note in left_out]
