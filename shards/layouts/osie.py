"""OSIE's own layout: `data/stimuli/<id>.jpg` and `data/eye/fixations.mat`, one cell per image.

J. Xu et al., "Predicting human gaze beyond pixels", Journal of Vision 14, 2014. It has no splits
and no density maps: a seeded tenth becomes `val`, maps are made with the authors' 24 pixels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shards.files.mat_files import items, read_mat
from shards.files.stored_pictures import PHOTOGRAPHS
from shards.layouts.folders import child, files_by_stem, has
from shards.layouts.raw_gaze import ONE_BASED, RawFixations
from shards.layouts.raw_samples import (
    IncompleteSampleError,
    RawFolder,
    RawSample,
    SourceOptions,
    gather,
)

SIGMA = 24.0


def is_here(source: Path) -> bool:
    """Whether the folder, or its `data/`, is laid out like this."""
    return any(
        has(source, *above, "stimuli") and has(source, *above, "eye") for above in ((), ("data",))
    )


def walk(source: Path, options: SourceOptions) -> RawFolder:
    """Finds the samples and reads their gaze.  Raises ValueError for a missing or broken file."""
    root = child(source, "data") if has(source, "data") else source
    stimuli, eye = child(root, "stimuli"), child(root, "eye") / "fixations.mat"
    if options.maps == "files":
        raise ValueError(f"{source}: OSIE has no density maps; leave out --maps files")
    gaze, samples, faults = read_table(eye), [], []
    photographs = files_by_stem(stimuli, PHOTOGRAPHS)
    for stem in sorted({*photographs, *gaze}):
        if stem not in photographs:
            faults.append(IncompleteSampleError(f"{stimuli}/{stem}, for {eye}", "are missing"))
        elif stem not in gaze:
            name = photographs[stem].relative_to(source).as_posix()
            faults.append(IncompleteSampleError(f"{name} in {eye}", "have no fixations"))
        else:
            name = photographs[stem].relative_to(source).as_posix()
            samples.append(RawSample(key=f"/{stem}", image=name, gaze=gaze[stem], density=None))
    return gather(
        source,
        options,
        samples,
        faults,
        format="osie",
        coordinates=ONE_BASED,
        sigma=SIGMA,
        tables=[eye.relative_to(source).as_posix()],
    )


def read_table(path: Path) -> dict[str, RawFixations]:
    """Each photograph's gaze by its stem.  Raises ValueError when the file is not OSIE's."""
    cells = read_mat(path, str(path), ("fixations",))["fixations"]
    try:
        return {Path(cell["img"]).stem: _gaze(cell) for cell in items(cells)}
    except Exception as error:  # numpy raises many kinds for values of another form
        raise ValueError(f"{path} does not hold OSIE's cell `fixations`: {error!r}") from error


def _gaze(cell: dict[str, Any]) -> RawFixations:
    observers, durations = [], []
    for subject in items(cell["subjects"]):
        x, y, duration = (np.ravel(subject[f"fix_{name}"]) for name in ("x", "y", "duration"))
        if not len(x) == len(y) == len(duration):
            raise ValueError(f"{len(x)} x, {len(y)} y and {len(duration)} durations")
        observers.append(np.stack([x, y], axis=1).astype(np.float64))
        durations.append(duration.astype(np.float32))
    gaze = RawFixations.of_observers(observers)
    unknown = np.full(len(gaze.points), np.nan, np.float32)
    timing = np.stack([unknown, np.concatenate([np.empty(0, np.float32), *durations])], axis=1)
    return replace(gaze, timing=timing)
