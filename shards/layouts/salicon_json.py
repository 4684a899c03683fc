"""SALICON's original JSON: `fixations_<split>2014.json` beside the photographs.

Tables lie in the folder or its `annotations/`, photographs anywhere below it, under the names in
the tables.  Points are one-based (row, column).  Optional density maps lie in `maps/` under the
photographs' names.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from emlnet.data.images import files_below
from shards.files.stored_pictures import DENSITY_MAPS
from shards.layouts import salicon
from shards.layouts.folders import by_stem, child, has, photographs_below
from shards.layouts.raw_samples import FoundSamples, Layout, RawFixations, maps_folder
from shards.layouts.source_options import ONE_BASED, SourceOptions

TABLE = re.compile(r"fixations_([a-z]+)\d*\.json", re.I)


def matches(source: Path) -> bool:
    """Whether the folder has this layout."""
    return bool(_tables(source))


def find(source: Path, options: SourceOptions) -> FoundSamples:
    """Find the samples and read their fixations.

    Raises ValueError for a missing or broken file.
    """
    tables = _tables(source)
    if not tables:
        raise ValueError(f"{source} has no table fixations_<split>2014.json")
    folder = maps_folder(source, "maps", options)
    maps = None if folder is None else by_stem(files_below(folder, DENSITY_MAPS))
    images = by_stem(photographs_below(source))
    found = FoundSamples(tables=[path.relative_to(source).as_posix() for path in tables.values()])
    for split, path in tables.items():
        fixations = read_table(path)
        own_images = {stem: images[stem] for stem in fixations if stem in images}
        own_maps = maps and {stem: maps[stem] for stem in fixations if stem in maps}
        found.pair(source, split, own_images, fixations, own_maps, table=path)
    return found


def read_table(path: Path) -> dict[str, RawFixations]:
    """Return each photograph's fixations by its stem, sorted.

    Raises ValueError if the file is not SALICON's, or has a photograph twice.
    """
    try:
        content = json.loads(path.read_bytes())
        points_by_id: dict[Any, list[Any]] = defaultdict(list)
        for row in content["annotations"]:
            points = np.asarray(row["fixations"], np.float64).reshape(-1, 2)[:, ::-1]
            points_by_id[row["image_id"]].append(points)
        images = {image["id"]: image for image in content["images"]}
        fixations = {
            Path(image["file_name"]).stem: RawFixations.of_observers(
                points_by_id[number], (int(image["height"]), int(image["width"]))
            )
            for number, image in images.items()
        }
        names = Counter(image["file_name"] for image in content["images"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is not SALICON's JSON of `images` and `annotations`: {error!r}"
        ) from error
    for name, num in names.items():
        if num > 1:
            raise ValueError(f"{path} has {num} entries for {name}; keep only one")
    return dict(sorted(fixations.items()))


def _tables(source: Path) -> dict[str, Path]:
    folders = [source] + ([child(source, "annotations")] if has(source, "annotations") else [])
    found: dict[str, Path] = {}
    for path in sorted(path for folder in folders for path in folder.iterdir()):
        if match := TABLE.fullmatch(path.name):
            other = found.setdefault(match[1].lower(), path)
            if other != path:
                raise ValueError(f"{other} and {path} hold the same split; remove one")
    return found


LAYOUT = Layout(
    name="salicon-json",
    expected_folders="fixations_<split>2014.json",
    matches=matches,
    find=find,
    coordinates=ONE_BASED,
    sigma=salicon.SIGMA,
)
