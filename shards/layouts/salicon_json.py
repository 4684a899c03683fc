"""SALICON's original JSON: `fixations_<split>2014.json` beside the photographs.

The tables lie in the folder itself or in its `annotations/`, the photographs anywhere in it, by
the names that the tables give. Points are one-based rows and columns. Density maps, if there are
any, lie in `maps/`, by the photographs' names.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emlnet.data.images import files_below
from shards.files.stored_pictures import DENSITY_MAPS, PHOTOGRAPHS
from shards.layouts.folders import child, has
from shards.layouts.raw_gaze import ONE_BASED, RawFixations
from shards.layouts.raw_samples import (
    IncompleteSampleError,
    RawFolder,
    RawSample,
    SourceOptions,
    gather,
)
from shards.layouts.salicon import SIGMA

TABLE = re.compile(r"fixations_([a-z]+)\d*\.json", re.I)


def is_here(source: Path) -> bool:
    """Whether the folder is laid out like this."""
    return bool(_tables(source))


def walk(source: Path, options: SourceOptions) -> RawFolder:
    """Finds the samples and reads their gaze.  Raises ValueError for a missing or broken file."""
    tables = _tables(source)
    if not tables:
        raise ValueError(f"{source} has no table fixations_<split>2014.json")
    with_maps = options.maps == "files" or (options.maps == "auto" and has(source, "maps"))
    photographs = _by_name(source, source, PHOTOGRAPHS, "maps")
    maps = _by_name(source, child(source, "maps"), DENSITY_MAPS) if with_maps else {}
    densities = {Path(name).stem: file for name, file in maps.items()}
    splits: dict[str, tuple[RawSample, ...]] = {}
    faults = []
    for split, table in tables.items():
        samples = []
        for name, gaze in sorted(read_table(table).items()):
            stem = Path(name).stem
            if name not in photographs:
                faults.append(IncompleteSampleError(f"{name}, for {table}", "are missing"))
            elif with_maps and stem not in densities:
                faults.append(IncompleteSampleError(photographs[name], "have no density map"))
            else:
                samples.append(
                    RawSample(
                        key=f"{split}/{stem}",
                        image=photographs[name],
                        gaze=gaze,
                        density=densities.get(stem),
                    )
                )
        splits[split] = tuple(samples)
    return gather(
        source,
        options,
        splits,
        faults,
        format="salicon-json",
        coordinates=ONE_BASED,
        sigma=SIGMA,
        tables=[table.relative_to(source).as_posix() for table in tables.values()],
    )


def read_table(path: Path) -> dict[str, RawFixations]:
    """Each photograph's gaze by file name.  Raises ValueError when the file is not SALICON's."""
    try:
        content = json.loads(path.read_bytes())
        fixations: dict[Any, list[Any]] = defaultdict(list)
        for row in content["annotations"]:
            points = np.asarray(row["fixations"], np.float64).reshape(-1, 2)[:, ::-1]
            fixations[row["image_id"]].append(points)
        rows = [
            (
                image["file_name"],
                RawFixations.of_observers(
                    fixations[image["id"]], (int(image["height"]), int(image["width"]))
                ),
            )
            for image in content["images"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is not SALICON's JSON of `images` and `annotations`: {error!r}"
        ) from error
    gazes = dict(rows)
    if len(gazes) < len(rows):
        (name, num), *_ = Counter(name for name, _ in rows).most_common(1)
        raise ValueError(f"{path} has {num} entries for {name}; leave one")
    return gazes


def _tables(source: Path) -> dict[str, Path]:
    """The tables by split."""
    folders = [source] + ([child(source, "annotations")] if has(source, "annotations") else [])
    found: dict[str, Path] = {}
    for path in sorted(path for folder in folders for path in folder.iterdir()):
        match = TABLE.fullmatch(path.name)
        if match and match[1].lower() in found:
            raise ValueError(f"{found[match[1].lower()]} and {path} are of one split; remove one")
        if match:
            found[match[1].lower()] = path
    return found


def _by_name(
    source: Path, folder: Path, suffixes: Sequence[str], without: str = ""
) -> dict[str, str]:
    """Files below a folder, by name, relative to the source; `without` is a folder left out."""
    found: dict[str, str] = {}
    for path in files_below(folder, suffixes):
        name = path.relative_to(source)
        if name.parts[0].lower() != without:
            if path.name in found:
                raise ValueError(f"{source / found[path.name]} and {path} have one name")
            found[path.name] = name.as_posix()
    return found
