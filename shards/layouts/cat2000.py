"""CAT2000's layout: `trainSet/Stimuli/<category>/<id>.jpg`, `FIXATIONLOCS` (.mat), `FIXATIONMAPS`.

A. Borji and L. Itti, "CAT2000: A large scale fixation dataset for boosting saliency research",
2015. `fixLocs` is a binary matrix, so observers cannot be told apart. Only trainSet has gaze: a
seeded tenth of it becomes `val`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards.files.mat_files import read_mat
from shards.files.stored_pictures import DENSITY_MAPS, PHOTOGRAPHS
from shards.layouts.folders import child, files_by_stem, has, subfolders
from shards.layouts.raw_gaze import ZERO_BASED, RawFixations
from shards.layouts.raw_samples import (
    IncompleteSampleError,
    RawFolder,
    RawSample,
    SourceOptions,
    gather,
)


def is_here(source: Path) -> bool:
    """Whether the folder is laid out like this, or is the trainSet of one that is."""
    return any(
        has(source, *above, "Stimuli") and has(source, *above, "FIXATIONLOCS")
        for above in ((), ("trainSet",))
    )


def walk(source: Path, options: SourceOptions) -> RawFolder:
    """Finds the samples; opens none of them.  Raises ValueError for a missing folder."""
    root = child(source, "trainSet") if has(source, "trainSet") else source
    stimuli, locations = child(root, "Stimuli"), child(root, "FIXATIONLOCS")
    with_maps = options.maps == "files" or (options.maps == "auto" and has(root, "FIXATIONMAPS"))
    maps = child(root, "FIXATIONMAPS") if with_maps else None
    samples, faults = [], []
    for category, folder in subfolders(stimuli).items():
        gaze = files_by_stem(child(locations, category), (".mat",))
        densities = files_by_stem(child(maps, category), DENSITY_MAPS) if maps else {}
        for stem, photograph in files_by_stem(folder, PHOTOGRAPHS).items():
            image = photograph.relative_to(source).as_posix()
            if stem not in gaze:
                faults.append(IncompleteSampleError(image, "have no .mat file"))
            elif maps and stem not in densities:
                faults.append(IncompleteSampleError(image, "have no density map"))
            else:
                density = densities[stem].relative_to(source).as_posix() if maps else None
                samples.append(
                    RawSample(
                        key=f"/{folder.name}-{stem}",
                        image=image,
                        gaze=gaze[stem].relative_to(source).as_posix(),
                        density=density,
                    )
                )
    return gather(
        source,
        options,
        samples,
        faults,
        format="cat2000",
        coordinates=ZERO_BASED,
        read_gaze=read_gaze,
        unlabelled=["test"] if has(source, "testSet") else [],
    )


def read_gaze(path: Path, name: str) -> RawFixations:
    """The fixated pixels of one .mat file.  Raises ValueError starting with `name`."""
    locations = np.asarray(read_mat(path, name, ("fixLocs",))["fixLocs"])
    if locations.ndim != 2 or locations.dtype.kind not in "biuf":
        raise ValueError(f"{name}: `fixLocs` is {locations.dtype} {locations.shape}, not a matrix")
    return RawFixations.of_mask(locations > 0)
