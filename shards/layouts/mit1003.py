"""MIT1003's layout: `ALLSTIMULI/<stem>.jpeg`, `ALLFIXATIONMAPS/<stem>_fixPts.jpg`, `_fixMap.jpg`.

T. Judd et al., "Learning to predict where humans look", ICCV 2009.  Fixations are a JPEG: pixels
above half brightness are fixated, and observers are unknown.  A random tenth becomes `val`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from emlnet.data.images import open_picture, to_grey
from shards.files.stored_pictures import DENSITY_MAPS, PHOTOGRAPHS
from shards.layouts.folders import by_stem, child, files_in, has_all
from shards.layouts.raw_samples import FoundSamples, Layout, RawFixations
from shards.layouts.source_options import SourceOptions


def find(source: Path, options: SourceOptions) -> FoundSamples:
    """Find the samples.  Raises ValueError for a missing folder."""
    files = by_stem(files_in(child(source, "ALLFIXATIONMAPS"), DENSITY_MAPS))

    def ending(end: str) -> dict[str, Path]:
        return {stem.removesuffix(end): files[stem] for stem in files if stem.endswith(end)}

    maps = ending("_fixMap")
    with_maps = options.maps == "files" or (options.maps == "auto" and bool(maps))
    found = FoundSamples()
    found.pair(
        source,
        "",
        images=by_stem(files_in(child(source, "ALLSTIMULI"), PHOTOGRAPHS)),
        fixations=ending("_fixPts"),
        maps=maps if with_maps else None,
    )
    return found


def read_fixations(path: Path, name: str) -> RawFixations:
    """Read the fixated pixels of a picture.  Raises ValueError starting with `name`."""
    return RawFixations.of_mask(to_grey(open_picture(path.read_bytes(), name)) > 127)


LAYOUT = Layout(
    name="mit1003",
    expected_folders="ALLSTIMULI/, ALLFIXATIONMAPS/",
    matches=partial(has_all, names=("ALLSTIMULI", "ALLFIXATIONMAPS")),
    find=find,
    read_fixations=read_fixations,
)
