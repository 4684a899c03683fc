"""Your own data: a table of fixations (csv) beside a folder of photographs of any size.

Columns, in any order and case: `image`, `x`, `y`, and optionally `observer`, `time` and `duration`
(ms), `split`.  `image` is a file's path below the table's folder or its `images/`, with or without
its suffix.  Without splits, a random tenth becomes `val`.  Optional density maps lie in `maps/`
under the photographs' names.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.files.stored_pictures import DENSITY_MAPS, PHOTOGRAPHS, upright_size
from shards.files.text_table import read_text_table
from shards.layouts.folders import FileNames, by_stem, files_in, photographs_below
from shards.layouts.raw_samples import (
    NO_OBSERVER,
    FoundSamples,
    Layout,
    RawFixations,
    maps_folder,
)
from shards.layouts.source_options import CoordinateSystem, Size, SourceOptions

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

SUFFIXES = (".csv", ".tsv")
REQUIRED = ("image", "x", "y")
NUMBERS = ("x", "y", "time", "duration")
SPLITS = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}
"""Other names of splits."""
SHORTEST = 10
"""Milliseconds; durations with a median below this are probably in seconds."""


def matches(source: Path) -> bool:
    """Whether the folder has one table."""
    return len(files_in(source, SUFFIXES)) == 1


def find(source: Path, options: SourceOptions) -> FoundSamples:
    """Find the samples and read their fixations.

    Raises ValueError naming the table and, if known, the line.
    """
    path = options.table.expanduser() if options.table else _only_table(source)
    table = read_table(path)
    paths = {file.relative_to(source).as_posix(): file for file in photographs_below(source)}
    table["image"] = table["image"].map(_match(path, set(table["image"]), paths))
    pairs = table[["image", "split"]].drop_duplicates()
    for line, image, split in pairs[pairs["image"].duplicated()].itertuples():
        raise ValueError(f"{path}: line {line}: {image} is in two splits, the second is {split!r}")
    splits = dict(zip(pairs["image"], pairs["split"], strict=True))
    if "" in splits.values() and len(set(splits.values())) > 1:
        image = min(image for image, split in splits.items() if not split)
        raise ValueError(f"{path}: {image} has no split; fill in its column `split`")
    fixations = {str(image): _fixations(rows) for image, rows in table.groupby("image")}
    if not options.trust_coordinates:
        sizes = {image: upright_size(paths[image]) for image in fixations if image in paths}
        known = [(fixations[image].points, size) for image, size in sizes.items() if size]
        if reason := find_coordinate_fault(known, options.coordinates):
            raise ValueError(f"{path}: {reason}; if the table is right, pass --trust-coordinates")
    maps = None
    if (folder := maps_folder(source, "maps", options)) is not None:
        stems = by_stem(files_in(folder, DENSITY_MAPS))
        maps = {image: stems[_stem(image)] for image in fixations if _stem(image) in stems}
    found = FoundSamples(tables=[str(path.absolute())], read_as=repr(options.coordinates))
    found.pair(source, splits, paths, fixations, maps, table=path, rename=_stem)
    return found


def read_table(path: Path) -> pd.DataFrame:
    """Read the columns `image`, `observer`, `split` and NUMBERS; the index is the line.

    Raises ValueError that names the file and the line at fault.
    """
    table = read_text_table(path, REQUIRED, NUMBERS)
    known = [*NUMBERS, "image", "observer", "split"]
    if unread := [name for name in table if name not in known]:
        logger.info("%s: columns that are not read: %s", path, ", ".join(map(str, unread)))
    if table["duration"].median() < SHORTEST:
        logger.warning("%s: durations are milliseconds; these look like seconds", path)
    table = table.reindex(columns=known, fill_value="")
    table["split"] = table["split"].str.lower().replace(SPLITS)
    for line, image, split in table[["image", "split"]].itertuples():
        if not image:
            raise ValueError(f"{path}: line {line} names no image")
        if set(split) & set("/\\"):
            raise ValueError(f"{path}: line {line}: {split!r} cannot name a split")
    return table


def _fixations(rows: pd.DataFrame) -> RawFixations:
    """Return one photograph's fixations, by observer (numbers first) and, if known, by time."""
    names = sorted(set(rows["observer"]), key=_natural)
    positions = np.array([names.index(name) for name in rows["observer"]], np.int32)
    numbers = rows[list(NUMBERS)].to_numpy(np.float64)
    order = np.lexsort((numbers[:, 2], positions))
    timing = numbers[order, 2:].astype(np.float32)
    return RawFixations(
        points=numbers[order, :2],
        observers=positions[order] if names != [""] else np.full_like(positions, NO_OBSERVER),
        timing=None if np.isnan(timing).all() else timing,
    )


def _match(table: Path, names: set[str], paths: Mapping[str, Path]) -> dict[str, str]:
    """Return the photograph of each name in the table, or the name itself if there is none.

    Raises ValueError if a name matches several photographs, or no name matches any.
    """
    photographs = FileNames({file: "/".join(_own_parts(Path(file))) for file in paths})
    found = {name: photographs.find(name) for name in sorted(names)}
    for name, files in found.items():
        if len(files) > 1:
            raise ValueError(
                f"{table}: {name} matches {' and '.join(files)}; write its path or rename one"
            )
    if not any(found.values()):
        raise ValueError(
            f"{table} names no photograph: its first name is {min(names)!r}, the first of "
            f"{len(paths)} photographs is {min(paths, default='none')!r} (formats that are read: "
            f"{', '.join(PHOTOGRAPHS)})"
        )
    return {name: files[0] if files else name for name, files in found.items()}


def find_coordinate_fault(
    fixations: Sequence[tuple[NDArray[np.float64], Size]], system: CoordinateSystem
) -> str | None:
    """Return why the fixations cannot be in this coordinate system, or None.

    fixations: for each photograph the points (N, 2) as in the source, and the size (H, W).
    """
    shown = [(points[np.isfinite(points).all(1)], size) for points, size in fixations]
    shown = [(points, size) for points, size in shown if len(points)]
    if not shown:
        return None
    raw = np.concatenate([points for points, _ in shown])
    num, centred = len(raw), system.origin == "centre"
    zeros = 0 if centred else int((raw == 0).all(1).sum())
    if zeros >= max(3, 0.005 * num):
        return f"x and y of {zeros} of {num} fixations are 0; leave cells of lost gaze empty"
    if system.units == "pixels":
        small = int((abs(raw) <= 1 if centred else (raw >= 0) & (raw <= 1)).all(1).sum())
        if 2 * small >= num and (num >= 10 or (not centred and (raw % 1 != 0).any())):
            return (
                f"x and y of {small} of {num} fixations lie in 0..1; "
                "--units fraction is for fractions of the width and height"
            )

    def places(swap: bool) -> NDArray[np.float64]:
        """Return points as fractions of width and height."""
        pixels = [(system.to_pixels(p[:, ::-1] if swap else p, size), size) for p, size in shown]
        return np.concatenate([(points + 0.5) / size[::-1] for points, size in pixels])

    def num_outside(place: NDArray[np.float64]) -> int:
        return int(((place < 0) | (place >= 1)).any(1).sum())

    place = places(swap=False)
    outside, swapped = num_outside(place), num_outside(places(swap=True))
    low, high = raw.min(0), raw.max(0)
    span = f"x from {low[0]:g} to {high[0]:g}, y from {low[1]:g} to {high[1]:g}"
    ways_out = (
        "are they pixels of these photographs? If they are degrees, or pixels of the screen or of "
        "pictures of another size, convert them first; see --units and --origin"
    )
    if outside >= max(2, 0.05 * num) and 5 * swapped <= outside:
        return (
            f"{outside} of {num} fixations lie outside their photographs, {swapped} if x and y "
            f"are exchanged ({span}); exchange the columns' names"
        )
    if num >= 4 and 4 * outside > num:
        return f"{outside} of {num} fixations lie outside their photographs ({span}); {ways_out}"
    low, high = np.percentile(place, [5, 95], axis=0)
    if num >= 8 and ((high - low < 0.15).all() or (high == low).any()):
        return f"nearly all of {num} fixations lie in one small part ({span}); {ways_out}"
    # Gaze is centred on average; with fewer photographs the mean varies more.
    mean, spread = place.mean(0), 0.2 / np.sqrt(len(shown))
    off = abs(mean - 0.5) - spread
    if num >= 20 and (off[0] > 0.15 or (off > 0.08).all()):
        return (
            f"the mean fixation lies at {mean[0]:.0%} of the width and {mean[1]:.0%} of the "
            f"height ({span}); {ways_out}"
        )
    return None


def _stem(image: str) -> str:
    """Return a sample's name without a path: `images/a/b.jpg` is `a-b`."""
    return "-".join(_own_parts(Path(image).with_suffix("")))


def _own_parts(path: Path) -> tuple[str, ...]:
    return path.parts[1:] if path.parts[0].lower() == "images" else path.parts


def _natural(name: str) -> tuple[int, float, str]:
    """Return a sort key: numbers by size, before names."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def _only_table(source: Path) -> Path:
    tables = files_in(source, SUFFIXES)
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise ValueError(f"{source} should hold one .csv table, not {names}; name it with --table")
    return tables[0]


LAYOUT = Layout(
    name="csv",
    expected_folders="one .csv table beside images/",
    matches=matches,
    find=find,
    coordinates=None,
)
