"""MIT1003's layout: `ALLSTIMULI/<stem>.jpeg`, `ALLFIXATIONMAPS/<stem>_fixPts.jpg`, `_fixMap.jpg`.

T. Judd et al., "Learning to predict where humans look", ICCV 2009. Points come as a JPEG, so a
pixel is fixated where it is over half as bright as white; observers cannot be told apart.
It has no splits: a seeded tenth becomes `val`.
"""

from __future__ import annotations

from pathlib import Path

from emlnet.data.images import open_picture, to_grey
from shards.files.stored_pictures import DENSITY_MAPS, PHOTOGRAPHS
from shards.layouts.folders import child, files_by_stem, has
from shards.layouts.raw_gaze import ZERO_BASED, RawFixations
from shards.layouts.raw_samples import (
    IncompleteSampleError,
    RawFolder,
    RawSample,
    SourceOptions,
    gather,
)


def is_here(source: Path) -> bool:
    """Whether the folder is laid out like this."""
    return has(source, "ALLSTIMULI") and has(source, "ALLFIXATIONMAPS")


def walk(source: Path, options: SourceOptions) -> RawFolder:
    """Finds the samples; opens none of them.  Raises ValueError for a missing folder."""
    photographs = files_by_stem(child(source, "ALLSTIMULI"), PHOTOGRAPHS)
    maps = files_by_stem(child(source, "ALLFIXATIONMAPS"), DENSITY_MAPS)
    has_maps = any(stem.endswith("_fixMap") for stem in maps)
    with_maps = options.maps == "files" or (options.maps == "auto" and has_maps)
    samples, faults = [], []
    for stem, photograph in photographs.items():
        image = photograph.relative_to(source).as_posix()
        points, density = maps.get(f"{stem}_fixPts"), maps.get(f"{stem}_fixMap")
        density = density if with_maps else None
        if points is None:
            faults.append(IncompleteSampleError(image, "have no _fixPts file"))
        elif with_maps and density is None:
            faults.append(IncompleteSampleError(image, "have no _fixMap file"))
        else:
            samples.append(
                RawSample(
                    key=f"/{stem}",
                    image=image,
                    gaze=points.relative_to(source).as_posix(),
                    density=None if density is None else density.relative_to(source).as_posix(),
                )
            )
    return gather(
        source,
        options,
        samples,
        faults,
        format="mit1003",
        coordinates=ZERO_BASED,
        read_gaze=read_gaze,
    )


def read_gaze(path: Path, name: str) -> RawFixations:
    """The fixated pixels of a picture of points.  Raises ValueError starting with `name`."""
    return RawFixations.of_mask(to_grey(open_picture(path.read_bytes(), name)) > 127)
