"""The layouts that can be built from, by the names that `build --format` takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shards.layouts import cat2000, csv_table, mit1003, osie, salicon, salicon_json
from shards.layouts.raw_samples import RawFolder, SourceOptions


@dataclass(frozen=True)
class Layout:
    """is_here: whether a folder is laid out so.  walk: finds its samples.  looks: for messages."""

    is_here: Callable[[Path], bool]
    walk: Callable[[Path, SourceOptions], RawFolder]
    looks: str


LAYOUTS: dict[str, Layout] = {
    "salicon": Layout(salicon.is_here, salicon.walk, "images/, fixations/, maps/"),
    "salicon-json": Layout(salicon_json.is_here, salicon_json.walk, "fixations_<split>2014.json"),
    "osie": Layout(osie.is_here, osie.walk, "data/stimuli/, data/eye/fixations.mat"),
    "mit1003": Layout(mit1003.is_here, mit1003.walk, "ALLSTIMULI/, ALLFIXATIONMAPS/"),
    "cat2000": Layout(cat2000.is_here, cat2000.walk, "trainSet/Stimuli/, trainSet/FIXATIONLOCS/"),
    "csv": Layout(csv_table.is_here, csv_table.walk, "one .csv table beside images/"),
}


def walk(
    source: Path, options: SourceOptions | None = None, format: str | None = None
) -> RawFolder:
    """Finds the samples of a source folder, whatever its layout.

    format: the layout, found by the folders' names when None; a table is given by a csv source.
    Raises ValueError when no layout fits, or more than one.
    """
    options = options or SourceOptions()
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder")
    if format is None:
        format = "csv" if options.table else find(source)
    if format not in LAYOUTS:
        raise ValueError(f"unknown format: {format}, known: {', '.join(LAYOUTS)}")
    return LAYOUTS[format].walk(source, options)


def find(source: Path) -> str:
    """The one layout that the folder has.  Raises ValueError when none fits, or several do."""
    fitting = [name for name, layout in LAYOUTS.items() if layout.is_here(source)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(f"{source} may be {' or '.join(fitting)}; name it with --format")
    known = "; ".join(f"{name}: {layout.looks}" for name, layout in LAYOUTS.items())
    raise ValueError(f"{source} has no known layout ({known}); name it with --format")
