"""People's own data: a table of fixations (csv) beside a folder of photographs of any size.

Columns, in any order and spelling of case: `image`, `x`, `y`, and where they are known `observer`,
`time` and `duration` (ms), `split`. `image` is a file's path below the table's folder or below its
`images/`, with or without its suffix. Where no split is given, a seeded tenth becomes `val`.
Density maps, if there are any, lie in `maps/` under the photographs' names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emlnet.data.images import files_below
from shards.files.stored_pictures import DENSITY_MAPS, PHOTOGRAPHS, upright_size
from shards.files.text_table import read_text_table
from shards.layouts.folders import FileNames, child, files_by_stem, has
from shards.layouts.raw_gaze import NO_OBSERVER, CoordinateSystem, RawFixations, doubt
from shards.layouts.raw_samples import (
    IncompleteSampleError,
    RawFolder,
    RawSample,
    SourceOptions,
    gather,
)

SUFFIXES = (".csv", ".tsv")
REQUIRED = ("image", "x", "y")
SPLITS = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}
"""Other names of splits."""


def is_here(source: Path) -> bool:
    """Whether the folder has one table."""
    return len(_tables(source)) == 1


def walk(source: Path, options: SourceOptions) -> RawFolder:
    """Finds the samples and reads their gaze.

    Raises ValueError that names the table, and the line, for what cannot be read.
    """
    table = options.table or _only_table(source)
    with_maps = options.maps == "files" or (options.maps == "auto" and has(source, "maps"))
    maps = files_by_stem(child(source, "maps"), DENSITY_MAPS) if with_maps else {}
    photographs = _photographs(source)
    splits: dict[str, list[RawSample]] = defaultdict(list)
    faults: list[IncompleteSampleError] = []
    seen: dict[str, str] = {}
    rows = read_table(table)
    for name, (split, gaze) in sorted(rows.items()):
        files = photographs.find(name)
        if not files:
            faults.append(IncompleteSampleError(f"{name}, for {table}", "are missing"))
            continue
        if len(files) > 1:
            raise ValueError(
                f"{table}: {name} may be {' or '.join(files)}; write its path or rename one"
            )
        (image,) = files
        if image in seen:
            raise ValueError(f"{table} calls {image} both {seen[image]} and {name}; use one name")
        seen[image] = name
        stem = _stem(image)
        if with_maps and stem not in maps:
            faults.append(IncompleteSampleError(image, "have no density map"))
            continue
        density = maps[stem].relative_to(source).as_posix() if with_maps else None
        splits[split].append(
            RawSample(key=f"{split}/{stem}", image=image, gaze=gaze, density=density)
        )
    if not seen:
        raise ValueError(
            f"{table} names no photograph below {source}: it says {min(rows)!r}, the "
            f"{len(photographs.files)} photographs that are there begin with "
            f"{min(photographs.files, default='none')!r} (read are {', '.join(PHOTOGRAPHS)})"
        )
    for image in sorted(set(photographs.files) - seen.keys()):
        faults.append(IncompleteSampleError(f"{image}, in {table}", "have no fixations"))
    if "" in splits and len(splits) > 1:
        raise ValueError(f"{table}: {splits[''][0].image} has no split, others have; fill it in")
    if not options.trust_coordinates:
        _check_coordinates(source, table, splits, options.coordinates)
    found = {split: tuple(samples) for split, samples in sorted(splits.items())}
    return gather(
        source,
        options,
        found.get("", ()) if "" in found or not found else found,
        faults,
        format="csv",
        coordinates=options.coordinates,
        tables=[str(table.absolute())],
        read_as=repr(options.coordinates),
    )


def read_table(path: Path) -> dict[str, tuple[str, RawFixations]]:
    """The split and the gaze of each photograph.

    Raises ValueError that names the file and the line at fault.
    """
    table = read_text_table(path, REQUIRED)
    try:
        numbers = table.numbers(("x", "y", "time", "duration"))
        rows: dict[str, list[int]] = defaultdict(list)
        splits: dict[str, str] = {}
        for row, (name, split) in enumerate(
            zip(table.text("image"), table.text("split"), strict=True)
        ):
            split, line = SPLITS.get(split.lower(), split.lower()), table.lines[row]
            if not name:
                raise ValueError(f"line {line} names no image")
            if set(split) & set("/\\"):
                raise ValueError(f"line {line}: {split!r} cannot name a split")
            if splits.setdefault(name, split) != split:
                raise ValueError(
                    f"line {line}: {name} is in {split!r}, and in {splits[name]!r} above"
                )
            rows[name].append(row)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    observers = table.text("observer")
    return {
        name: (splits[name], _gaze(numbers[own], [observers[row] for row in own]))
        for name, own in rows.items()
    }


def _gaze(numbers: NDArray[np.float64], observers: Sequence[str]) -> RawFixations:
    """Rows (N, 4) of x, y, onset, duration as gaze: by observer, in order of time if it is known.

    Observers with numbers come in order of number, before those with names.
    """
    names = sorted(set(observers), key=_natural)
    positions = np.array([names.index(name) for name in observers], np.int32)
    order = np.lexsort((numbers[:, 2], positions))
    timing = numbers[order, 2:].astype(np.float32)
    return RawFixations(
        points=numbers[order, :2],
        observers=positions[order] if names != [""] else np.full_like(positions, NO_OBSERVER),
        timing=None if np.isnan(timing).all() else timing,
    )


def _check_coordinates(
    source: Path, table: Path, splits: dict[str, list[RawSample]], system: CoordinateSystem
) -> None:
    """Raises ValueError when the gaze looks as if it had other units than stated."""
    gaze = []
    for raw in (raw for samples in splits.values() for raw in samples):
        size = upright_size(source / raw.image)
        if size is not None and not isinstance(raw.gaze, str):
            gaze.append((raw.gaze.points, size))
    reason = doubt(gaze, system)
    if reason:
        raise ValueError(f"{table}: {reason}; if it is right as it is, pass --trust-coordinates")


def _photographs(source: Path) -> FileNames:
    """The photographs by path below the source, or below its `images/`."""
    found: dict[str, str] = {}
    for path in files_below(source, PHOTOGRAPHS):
        name = path.relative_to(source)
        if name.parts[0].lower() == "maps":
            continue
        below = name.parts[1:] if name.parts[0].lower() == "images" else name.parts
        found[name.as_posix()] = Path(*below).as_posix()
    return FileNames(found, PHOTOGRAPHS)


def _stem(image: str) -> str:
    """A name for the sample, without a path: `images/a/b.jpg` is `a-b`."""
    parts = Path(image).with_suffix("").parts
    return "-".join(parts[1:] if parts[0].lower() == "images" else parts)


def _natural(name: str) -> tuple[int, float, str]:
    """Sorts numbers by size, before names."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def _tables(source: Path) -> list[Path]:
    return sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)


def _only_table(source: Path) -> Path:
    tables = _tables(source)
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise ValueError(f"{source} should hold one .csv table, not {names}; name it with --table")
    return tables[0]
