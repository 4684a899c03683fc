"""SALICON's layout: `images/`, `fixations/` (.mat) and `maps/`, ignoring case.

Each has a folder per split.  If none has, a random tenth becomes `val`, the rest `train`.
Without `maps/`, density maps are made from the fixations.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emlnet.data.images import open_picture, to_grey
from shards.files.mat_files import items, read_mat
from shards.files.stored_pictures import DENSITY_MAPS, PHOTOGRAPHS
from shards.layouts.folders import by_stem, child, files_in, has_all, subfolders
from shards.layouts.raw_samples import FoundSamples, Layout, RawFixations, maps_folder
from shards.layouts.source_options import ONE_BASED, SourceOptions

MASKS = (".png", ".bmp", ".tif", ".tiff")
"""Suffixes of binary pictures of the fixated pixels, for sources without .mat files."""
SIGMA = 19.0
"""Sigma of SALICON's maps in pixels, at 640 x 480."""
FEWEST_OF_2017 = 300
"""Fixated pixels per image: about 170 in SALICON's edition of 2015, about 510 in that of 2017."""


def find(source: Path, options: SourceOptions) -> FoundSamples:
    """Find the samples.  Raises ValueError for a missing or empty folder."""
    folders = {name: child(source, name) for name in ("images", "fixations")}
    if (maps := maps_folder(source, "maps", options)) is not None:
        folders["maps"] = maps
    splits = {name: subfolders(folder) for name, folder in folders.items()}
    found = FoundSamples()
    if files_in(folders["images"], PHOTOGRAPHS):
        if splits["images"]:
            raise ValueError(
                f"{folders['images']} holds both images and folders "
                f"({', '.join(splits['images'])}); expected only one of the two"
            )
        _pair(found, source, "", folders)
        return found
    labelled = sorted({*splits["fixations"], *splits.get("maps", ())})
    found.unlabelled = sorted(set(splits["images"]) - set(labelled))
    if not labelled:
        raise ValueError(f"{source} holds no samples: {', '.join(folders)} are empty")
    for split in labelled:
        if not options.splits or split in options.splits:
            of_split = {name: child(folder, split) for name, folder in folders.items()}
            _pair(found, source, split, of_split)
        else:
            found.splits[split] = []
    return found


def _pair(found: FoundSamples, source: Path, split: str, folders: dict[str, Path]) -> None:
    """Add the samples of one split; ValueError for a folder without files of its kind."""
    kinds = {"images": PHOTOGRAPHS, "fixations": (".mat",), "maps": DENSITY_MAPS}
    if not files_in(folders["fixations"], (".mat",)):
        kinds["fixations"] = MASKS
    files = {}
    for name, folder in folders.items():
        files[name] = by_stem(files_in(folder, kinds[name]))
        if not files[name]:
            known = ", ".join((".mat", *MASKS) if name == "fixations" else kinds[name])
            raise ValueError(f"{folder} is empty: expected {known} files")
    found.pair(source, split, files["images"], files["fixations"], files.get("maps"))


def edition(first_key: str, mean_fixated_pixels: float) -> str | None:
    """Return the edition of SALICON; None for another data set in the same layout.

    first_key: the first sample's key; SALICON's photographs are COCO's.  mean_fixated_pixels: mean
    number per image.
    """
    if "COCO_" not in first_key:
        return None
    return "SALICON 2017" if mean_fixated_pixels > FEWEST_OF_2017 else "SALICON 2015"


def read_fixations(path: Path, name: str) -> RawFixations:
    """Read the fixations of one .mat file, or of a binary picture of the fixated pixels.

    The array of an observer without fixations may have any shape.
    Raises ValueError starting with `name` if the file is not SALICON's.
    """
    if path.suffix.lower() != ".mat":
        pixels = to_grey(open_picture(path.read_bytes(), name))
        if len(np.unique(pixels)) > 2:
            raise ValueError(f"{name} is not a binary picture of fixated pixels: it has greys")
        return RawFixations.of_mask(pixels > 0, first_pixel=1)
    content = read_mat(path, name, ("gaze", "resolution"))
    try:
        height, width = (int(value) for value in np.ravel(content["resolution"]))
        observers = [_observer(observer["fixations"]) for observer in items(content["gaze"])]
    except Exception as error:  # numpy raises many kinds of errors for malformed values
        raise ValueError(f"{name} does not hold SALICON's `gaze`: {error!r}") from error
    return RawFixations.of_observers(observers, (height, width))


def _observer(fixations: Any) -> NDArray[np.float64]:
    # Files may hold small unsigned integers; as floats they cannot overflow.
    points = np.asarray(fixations, dtype=np.float64)
    if points.size == 0:
        return np.empty((0, 2))
    points = np.atleast_2d(points)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"fixations of shape {points.shape}, expected (M, 2)")
    return points


LAYOUT = Layout(
    name="salicon",
    expected_folders="images/, fixations/, maps/",
    matches=partial(has_all, names=("images", "fixations")),
    find=find,
    coordinates=ONE_BASED,
    read_fixations=read_fixations,
    sigma=SIGMA,
)
