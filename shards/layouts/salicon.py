"""SALICON's layout: `images/`, `fixations/` (.mat) and `maps/`, in any spelling of case.

Each has a folder per split, or none at all: then a seeded tenth becomes `val`, the rest `train`.
Without `maps/`, density maps are made from the fixations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emlnet.data.images import open_picture, to_grey
from shards.files.mat_files import items, read_mat
from shards.files.stored_pictures import DENSITY_MAPS, PHOTOGRAPHS
from shards.layouts.folders import child, files_by_stem, has, subfolders
from shards.layouts.raw_gaze import ONE_BASED, RawFixations
from shards.layouts.raw_samples import (
    IncompleteSampleError,
    RawFolder,
    RawSample,
    SourceOptions,
    choose,
    gather,
)

SUFFIXES = {"images": PHOTOGRAPHS, "fixations": (".mat",), "maps": DENSITY_MAPS}
MASKS = (".png", ".bmp", ".tif", ".tiff")
"""Of binary pictures of the fixated pixels, where there is no .mat file."""
SIGMA = 19.0
"""Pixels of the Gaussian that made SALICON's maps, at 640 x 480."""
FEWEST_OF_2017 = 300
"""Fixated pixels an image: SALICON's edition of 2015 has about 170, that of 2017 about 510."""


def is_here(source: Path) -> bool:
    """Whether the folder is laid out like this."""
    return has(source, "images") and has(source, "fixations")


def walk(source: Path, options: SourceOptions) -> RawFolder:
    """Finds the samples of a raw folder; opens none of them.

    Raises ValueError for a missing or empty folder.
    """
    with_maps = options.maps == "files" or (options.maps == "auto" and has(source, "maps"))
    wanted = ("images", "fixations", "maps") if with_maps else ("images", "fixations")
    folders = {name: child(source, name) for name in wanted}
    found = {name: subfolders(folder) for name, folder in folders.items()}
    is_flat = bool(files_by_stem(folders["images"], SUFFIXES["images"]))
    if is_flat and found["images"]:
        raise ValueError(
            f"{folders['images']} holds both images and folders ({', '.join(found['images'])}); "
            "expected either"
        )
    if is_flat:
        samples, faults = _pair(source, "", folders)
        return _gathered(source, options, samples, faults)
    labelled = sorted(set().union(*(found[name] for name in wanted[1:])))
    unlabelled = sorted(set(found["images"]) - set(labelled))
    names = options.splits or tuple(labelled)
    if not names:
        raise ValueError(f"{source} holds no samples: {', '.join(wanted)} are empty")
    choose(source, dict.fromkeys([*labelled, *unlabelled], ()), names)
    splits, faults = {}, []
    for split in dict.fromkeys(names):
        splits[split], missing = _pair(
            source, split, {name: child(folder, split) for name, folder in folders.items()}
        )
        faults += missing
    return _gathered(source, options, splits, faults, unlabelled)


def _gathered(
    source: Path,
    options: SourceOptions,
    samples: Sequence[RawSample] | dict[str, tuple[RawSample, ...]],
    faults: Sequence[IncompleteSampleError],
    unlabelled: Sequence[str] = (),
) -> RawFolder:
    return gather(
        source,
        options,
        samples,
        faults,
        format="salicon",
        coordinates=ONE_BASED,
        read_gaze=read_gaze,
        sigma=SIGMA,
        unlabelled=unlabelled,
    )


def edition(first_key: str, mean_fixated_pixels: float) -> str | None:
    """Which of SALICON's editions it is; None when it is some other data set in the same layout.

    first_key: of a sample; SALICON's photographs are COCO's.  mean_fixated_pixels: per image.
    """
    if "COCO_" not in first_key:
        return None
    return "SALICON 2017" if mean_fixated_pixels > FEWEST_OF_2017 else "SALICON 2015"


def read_gaze(path: Path, name: str) -> RawFixations:
    """The gaze of one .mat file, or of a binary picture of the fixated pixels.

    An observer without fixations may have any shape.
    Raises ValueError starting with `name` when the file is not SALICON's.
    """
    if path.suffix.lower() != ".mat":
        pixels = to_grey(open_picture(path.read_bytes(), name))
        if len(np.unique(pixels)) > 2:
            raise ValueError(f"{name} is not a binary picture of fixated pixels: it has greys")
        # Picture pixels count from zero, SALICON's .mat files from one.
        mask = RawFixations.of_mask(pixels > 0)
        return replace(mask, points=mask.points + 1)
    content = read_mat(path, name, ("gaze", "resolution"))
    try:
        height, width = (int(value) for value in np.ravel(content["resolution"]))
        gaze = [_observer(observer["fixations"]) for observer in items(content["gaze"])]
    except Exception as error:  # numpy raises many kinds for values of another form
        raise ValueError(f"{name} does not hold SALICON's `gaze`: {error!r}") from error
    return RawFixations.of_observers(gaze, (height, width))


def _observer(fixations: Any) -> NDArray[np.float64]:
    # Small unsigned integers come too: as floats they can be compared and shifted safely.
    points = np.asarray(fixations, dtype=np.float64)
    if points.size == 0:
        return np.empty((0, 2))
    if points.shape == (2,):
        points = points[None]
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"fixations of shape {points.shape}, expected (M, 2)")
    return points


def _pair(
    source: Path, split: str, folders: dict[str, Path]
) -> tuple[tuple[RawSample, ...], list[IncompleteSampleError]]:
    """The samples of one split that have all three files, and the faults of those that have not."""
    files = {name: files_by_stem(folder, SUFFIXES[name]) for name, folder in folders.items()}
    if not files["fixations"]:
        files["fixations"] = files_by_stem(folders["fixations"], MASKS)
    for name, found in files.items():
        if not found:
            known = ", ".join(SUFFIXES[name] + (MASKS if name == "fixations" else ()))
            raise ValueError(f"{folders[name]} is empty: expected {known} files")
    samples, faults = [], []
    for stem in sorted(set().union(*files.values())):
        names = {
            name: found[stem].relative_to(source).as_posix()
            for name, found in files.items()
            if stem in found
        }
        if "images" not in names:
            belongs = " and ".join(names.values())
            faults.append(
                IncompleteSampleError(f"{folders['images']}/{stem}, for {belongs}", "are missing")
            )
        elif "fixations" not in names:
            faults.append(IncompleteSampleError(names["images"], "have no file of fixations"))
        elif "maps" in folders and "maps" not in names:
            faults.append(IncompleteSampleError(names["images"], "have no density map"))
        else:
            samples.append(
                RawSample(
                    key=f"{split}/{stem}",
                    image=names["images"],
                    gaze=names["fixations"],
                    density=names.get("maps"),
                )
            )
    return tuple(samples), faults
