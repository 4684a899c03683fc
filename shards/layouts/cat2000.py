"""CAT2000's layout: `trainSet/Stimuli/<category>/<id>.jpg`, `FIXATIONLOCS` (.mat), `FIXATIONMAPS`.

A. Borji and L. Itti, "CAT2000: A large scale fixation dataset for boosting saliency research",
2015.  `fixLocs` is a binary matrix, so observers are unknown.  Only trainSet has gaze; a random
tenth of it becomes `val`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from shards.files.mat_files import read_mat
from shards.files.stored_pictures import DENSITY_MAPS, PHOTOGRAPHS
from shards.layouts.folders import by_stem, child, files_in, has, has_all, root, subfolders
from shards.layouts.raw_samples import FoundSamples, Layout, RawFixations, maps_folder
from shards.layouts.source_options import SourceOptions


def find(source: Path, options: SourceOptions) -> FoundSamples:
    """Find the samples, named `<category>-<id>`.  Raises ValueError for a missing folder."""
    data = root(source, "trainSet")
    stimuli, locations = child(data, "Stimuli"), child(data, "FIXATIONLOCS")
    maps = maps_folder(data, "FIXATIONMAPS", options)
    found = FoundSamples(unlabelled=["test"] if has(source, "testSet") else [])
    for folder in subfolders(stimuli).values():
        found.pair(
            source,
            "",
            by_stem(files_in(folder, PHOTOGRAPHS)),
            by_stem(files_in(child(locations, folder.name), (".mat",))),
            None if maps is None else by_stem(files_in(child(maps, folder.name), DENSITY_MAPS)),
            rename=partial("{}-{}".format, folder.name),
        )
    return found


def read_fixations(path: Path, name: str) -> RawFixations:
    """Read the fixated pixels of one .mat file.  Raises ValueError starting with `name`."""
    locations = np.asarray(read_mat(path, name, ("fixLocs",))["fixLocs"])
    if locations.ndim != 2 or locations.dtype.kind not in "biuf":
        raise ValueError(f"{name}: `fixLocs` is {locations.dtype} {locations.shape}, not a matrix")
    return RawFixations.of_mask(locations > 0)


LAYOUT = Layout(
    name="cat2000",
    expected_folders="trainSet/Stimuli/, trainSet/FIXATIONLOCS/",
    matches=partial(has_all, names=("Stimuli", "FIXATIONLOCS"), within="trainSet"),
    find=find,
    read_fixations=read_fixations,
)
