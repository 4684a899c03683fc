"""The known layouts, by the names that `build --format` takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from shards.layouts import cat2000, csv_table, mit1003, osie, salicon, salicon_json
from shards.layouts.folders import fingerprint
from shards.layouts.raw_samples import FoundSamples, Layout, RawFolder, RawSample
from shards.layouts.source_options import SourceOptions

LAYOUTS: dict[str, Layout] = {
    module.LAYOUT.name: module.LAYOUT
    for module in (salicon, salicon_json, osie, mit1003, cat2000, csv_table)
}
VAL_SHARE = 0.1


def find_samples(source: Path, options: SourceOptions | None = None) -> RawFolder:
    """Find the samples of a source folder in any known layout.

    Raises ValueError if no layout or more than one matches, or for files that the layout cannot
    read.
    """
    options = options or SourceOptions()
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder")
    name = options.format or ("csv" if options.table else find_layout(source))
    if name not in LAYOUTS:
        raise ValueError(f"unknown format: {name}, known: {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    found = layout.find(source, options)
    is_random = list(found.splits) == [""]
    if is_random:
        found.splits = make_split(source, found, options.seed)
    for split in options.splits:
        if split not in found.splits:
            known = ", ".join(found.splits)
            raise ValueError(f"{source} has no split {split!r}; it has {known}")
    wanted = dict.fromkeys(options.splits or sorted(found.splits))
    splits = {split: tuple(found.splits[split]) for split in wanted}
    samples = [raw for chosen in splits.values() for raw in chosen]
    owners: dict[str, RawSample] = {}
    for raw in samples:
        if owners.setdefault(raw.key, raw) is not raw:
            raise ValueError(
                f"{source}: {owners[raw.key].image} and {raw.image} would both be {raw.key}; "
                "rename one"
            )
    files: list[tuple[str, ...]] = [(raw.key, *raw.files) for raw in samples]
    files += [("", table) for table in found.tables] + ([(found.read_as,)] if found.read_as else [])
    return RawFolder(
        path=source,
        layout=layout,
        coordinates=layout.coordinates or options.coordinates,
        splits=splits,
        faults=tuple(found.faults),
        split_seed=options.seed if is_random else None,
        unlabelled=() if options.splits else tuple(found.unlabelled),
        fingerprint=fingerprint(source, files),
    )


def find_layout(source: Path) -> str:
    """Return the layout of a folder.  Raises ValueError if none or more than one matches."""
    fitting = [name for name, layout in LAYOUTS.items() if layout.matches(source)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(f"{source} matches {' and '.join(fitting)}; choose one with --format")
    known = "; ".join(f"{name}: {layout.expected_folders}" for name, layout in LAYOUTS.items())
    raise ValueError(f"{source} has no known layout ({known}); name it with --format")


def make_split(source: Path, found: FoundSamples, seed: int) -> dict[str, list[RawSample]]:
    """Split off a random tenth of the samples as `val`; the others become `train`."""
    samples = found.splits[""]
    if len(samples) < 2:
        reason = ""
        if found.faults:
            reason = f"; the others {found.faults[0].reason} (first: {found.faults[0].file})"
        raise ValueError(
            f"{source}: {len(samples)} of {len(found.faults) + len(samples)} images can be used, "
            f"too few to split into train and val{reason}"
        )
    order = np.random.default_rng(seed).permutation(len(samples))
    val = set(order[: max(1, round(VAL_SHARE * len(samples)))].tolist())
    splits: dict[str, list[RawSample]] = {"train": [], "val": []}
    for position, sample in enumerate(samples):
        split = "val" if position in val else "train"
        splits[split].append(replace(sample, key=f"{split}{sample.key}"))
    return splits
