"""OSIE's own layout: `data/stimuli/<id>.jpg` and `data/eye/fixations.mat`, one cell per image.

J. Xu et al., "Predicting human gaze beyond pixels", Journal of Vision 14, 2014.  A random tenth
becomes `val`.  Density maps are made with the authors' sigma of 24 pixels.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shards.files.mat_files import items, read_mat
from shards.files.stored_pictures import PHOTOGRAPHS
from shards.layouts.folders import by_stem, child, files_in, has_all, root
from shards.layouts.raw_samples import FoundSamples, Layout, RawFixations
from shards.layouts.source_options import ONE_BASED, SourceOptions


def find(source: Path, options: SourceOptions) -> FoundSamples:
    """Find the samples and read their fixations.

    Raises ValueError for a missing or broken file.
    """
    if options.maps == "files":
        raise ValueError(f"{source}: OSIE has no density maps; leave out --maps files")
    data = root(source, "data")
    table = child(data, "eye") / "fixations.mat"
    images = by_stem(files_in(child(data, "stimuli"), PHOTOGRAPHS))
    found = FoundSamples(tables=[table.relative_to(source).as_posix()])
    found.pair(source, "", images, dict(sorted(read_table(table).items())), None, table=table)
    return found


def read_table(path: Path) -> dict[str, RawFixations]:
    """Return each photograph's fixations by its stem; ValueError if the file is not OSIE's."""
    cells = read_mat(path, str(path), ("fixations",))["fixations"]
    try:
        return {Path(cell["img"]).stem: _fixations(cell) for cell in items(cells)}
    except Exception as error:  # numpy raises many kinds of errors for malformed values
        raise ValueError(f"{path} does not hold OSIE's cell `fixations`: {error!r}") from error


def _fixations(cell: dict[str, Any]) -> RawFixations:
    observers, durations = [], [np.empty(0, np.float32)]
    for subject in items(cell["subjects"]):
        x, y, duration = (np.ravel(subject[f"fix_{name}"]) for name in ("x", "y", "duration"))
        if not len(x) == len(y) == len(duration):
            raise ValueError(f"{len(x)} x, {len(y)} y and {len(duration)} durations")
        observers.append(np.stack([x, y], axis=1).astype(np.float64))
        durations.append(duration.astype(np.float32))
    fixations = RawFixations.of_observers(observers)
    unknown = np.full(len(fixations.points), np.nan, np.float32)
    return replace(fixations, timing=np.stack([unknown, np.concatenate(durations)], axis=1))


LAYOUT = Layout(
    name="osie",
    expected_folders="data/stimuli/, data/eye/fixations.mat",
    matches=partial(has_all, names=("stimuli", "eye"), within="data"),
    find=find,
    coordinates=ONE_BASED,
    sigma=24,
)
