"""People's own data: a table of fixations (csv) beside a folder of photographs of any size.

Columns, in any order and spelling of case: `image`, `x`, `y`, and where they are known `observer`,
`time` and `duration` (ms), `split`. `image` is a file's path below the table's folder or below its
`images/`, with or without its suffix. Where no split is given, a seeded tenth becomes `val`.
Density maps, if there are any, lie in `maps/` under the photographs' names.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emlnet.data.images import files_below
from shards.files.stored_pictures import PHOTOGRAPHS
from shards.layouts.folders import child, files_by_stem, has
from shards.layouts.raw_gaze import NO_OBSERVER, Gaze
from shards.layouts.raw_samples import (
    IncompleteSampleError,
    RawFolder,
    RawSample,
    SourceOptions,
    gather,
)

SUFFIXES = (".csv", ".tsv")
REQUIRED = ("image", "x", "y")
OPTIONAL = ("observer", "time", "duration", "split")


@dataclass
class Rows:
    """The rows of one photograph: x, y, onset, duration; each row's observer; the split."""

    numbers: list[tuple[float, float, float, float]] = field(default_factory=list)
    observers: list[str] = field(default_factory=list)
    split: str = ""

    def gaze(self) -> Gaze:
        """The rows as gaze: by observer, in order of time where it is given."""
        numbers = np.array(self.numbers, np.float64)
        names = sorted(set(self.observers), key=_natural)
        observers = np.array([names.index(name) for name in self.observers], np.int32)
        order = np.lexsort((numbers[:, 2], observers))
        timing = numbers[order, 2:].astype(np.float32)
        return Gaze(
            points=numbers[order, :2],
            observers=observers[order] if names != [""] else np.full_like(observers, NO_OBSERVER),
            timing=None if np.isnan(timing).all() else timing,
        )


def is_here(source: Path) -> bool:
    """Whether the folder has one table."""
    return len(_tables(source)) == 1


def walk(source: Path, options: SourceOptions) -> RawFolder:
    """Finds the samples and reads their gaze.

    Raises ValueError that names the table, and the line, for what cannot be read.
    """
    table = options.table or _only_table(source)
    with_maps = options.maps == "files" or (options.maps == "auto" and has(source, "maps"))
    maps = files_by_stem(child(source, "maps"), PHOTOGRAPHS) if with_maps else {}
    photographs = _photographs(source)
    splits: dict[str, list[RawSample]] = defaultdict(list)
    faults: list[IncompleteSampleError] = []
    seen: dict[str, str] = {}
    for name, rows in sorted(read_table(table).items()):
        files = photographs.get(name, [])
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
        key = f"{rows.split}/{stem}"
        splits[rows.split].append(
            RawSample(key=key, image=image, gaze=rows.gaze(), density=density)
        )
    every = {image for files in photographs.values() for image in files}
    for image in sorted(every - seen.keys()):
        faults.append(IncompleteSampleError(f"{image}, in {table}", "have no fixations"))
    if "" in splits and len(splits) > 1:
        raise ValueError(f"{table}: {splits[''][0].image} has no split, others have; fill it in")
    found = {split: tuple(samples) for split, samples in sorted(splits.items())}
    return gather(
        source,
        options,
        found.get("", ()) if "" in found or not found else found,
        faults,
        format="csv",
        frame=options.frame,
        tables=[str(table.absolute())],
        read_as=repr(options.frame),
    )


def read_table(path: Path) -> dict[str, Rows]:
    """The rows by photograph.  Raises ValueError that names the file and the line at fault."""
    photographs: dict[str, Rows] = defaultdict(Rows)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            separator = max(",;\t", key=header.count)
            columns = [
                name.strip().lower() for name in next(csv.reader([header], delimiter=separator))
            ]
            _check_columns(columns)
            rows = csv.DictReader(file, columns, delimiter=separator, restval="")
            for row in rows:
                try:
                    _add(photographs, row)
                except ValueError as error:
                    raise ValueError(f"line {rows.line_num + 1}: {error}") from error
    except (ValueError, StopIteration, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error
    if not photographs:
        raise ValueError(f"{path} has no rows")
    return photographs


def _check_columns(columns: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise ValueError(
            f"no column {', '.join(missing)} among {', '.join(columns)}; the first line names the "
            f"columns: {', '.join(REQUIRED)}, and if you have them {', '.join(OPTIONAL)}"
        )
    twice = {name for name in columns if columns.count(name) > 1}
    if twice:
        raise ValueError(f"two columns are named {twice.pop()}")


def _add(photographs: dict[str, Rows], row: dict[str, str]) -> None:
    rows = photographs[row["image"].strip()]
    split = row.get("split", "").strip().lower()
    if rows.numbers and split != rows.split:
        raise ValueError(f"{row['image']} is in {split!r}, and in {rows.split!r} above")
    if set(split) & set("/\\"):
        raise ValueError(f"{split!r} cannot name a split")
    rows.split = split
    x, y, time, duration = (_number(row, name) for name in ("x", "y", "time", "duration"))
    rows.numbers.append((x, y, time, duration))
    rows.observers.append(row.get("observer", "").strip())


def _number(row: dict[str, str], name: str) -> float:
    """A cell as a number; an empty one, where a tracker lost the eye, is nan."""
    text = row.get(name, "").strip()
    try:
        return float(text) if text else float("nan")
    except ValueError:
        raise ValueError(f"{name} is {text!r}, not a number") from None


def _photographs(source: Path) -> dict[str, list[str]]:
    """Files by what a table may call them: path below the source or `images/`, suffix or not."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in files_below(source, PHOTOGRAPHS):
        name = path.relative_to(source)
        if name.parts[0].lower() == "maps":
            continue
        below = name.parts[1:] if name.parts[0].lower() == "images" else name.parts
        inner = Path(*below)
        for called in {name.as_posix(), inner.as_posix(), inner.with_suffix("").as_posix()}:
            found[called].append(name.as_posix())
    return found


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
