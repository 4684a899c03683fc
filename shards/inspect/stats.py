"""A table of a data set's contents, and warnings about it; reads only its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.files.manifest import Manifest, Split
from shards.files.picture_hash import near_duplicates

OUTSIDE = 0.1
"""Share of fixations outside their images; a larger share suggests wrong units."""
DISAGREES = 0.5
"""Correlation of a density map with one made from its fixations; a lower value is suspicious."""


def table(manifest: Manifest, folder: Path | str) -> str:
    """Return a table with a column per split, then the sources of maps, edition and splits."""
    import pandas as pd  # Slow to import; only this command needs it.

    rows = pd.DataFrame({name: dict(_describe(split)) for name, split in manifest.splits.items()})
    return "\n".join([f"{manifest.name} ({folder})", rows.to_string(), *_sources(manifest)])


def warnings(manifest: Manifest) -> Iterator[str]:
    """Yield warnings: fixations outside pictures, maps that disagree with fixations, duplicates."""
    outside = manifest.dropped.points_outside
    splits = manifest.splits.values()
    total = outside + sum(entry.num_fixations for split in splits for entry in split.samples)
    if outside > OUTSIDE * total:
        yield (
            f"{outside} of {total} fixations lie outside their images, and were left out; are "
            "--units and --origin those of the source?"
        )
    yield from _duplicates(manifest)
    for split in manifest.splits.values():
        known = [(e.density_cc, e.key) for e in split.samples if e.density_cc is not None]
        wrong = sorted(pair for pair in known if pair[0] < DISAGREES)
        if wrong:
            yield (
                f"{len(wrong)} of {len(known)} density maps disagree with maps made from their "
                f"fixations: the correlation is below {DISAGREES} (lowest: {wrong[0][0]} for "
                f"{wrong[0][1]}); are the maps those of other images, or is --sigma wrong?"
            )


def _duplicates(manifest: Manifest) -> Iterator[str]:
    """Yield warnings about photographs of other splits that are also in train."""
    hashes = {
        name: {entry.key: entry.picture_hash for entry in split.samples}
        for name, split in manifest.splits.items()
    }
    train = hashes.pop("train", {})
    for name, others in hashes.items():
        if shown := near_duplicates(train, others):
            first = min(shown)
            yield (
                f"{len(shown)} of {len(others)} photographs of {name} are also in train, exactly "
                f"or encoded again (first: {first} shows {shown[first]}); "
                "`build --drop-duplicates` leaves them out"
            )


def _describe(split: Split) -> Iterator[tuple[str, str]]:
    entries, num = split.samples, len(split.samples)
    stored = sum(shard.num_bytes for shard in split.shards)
    counts = [entry.num_fixations for entry in entries]
    observers = [entry.num_observers for entry in entries if entry.num_observers is not None]
    correlations = [entry.density_cc for entry in entries if entry.density_cc is not None]
    sizes = Counter((entry.height, entry.width) for entry in entries)
    (height, width), num_of_size = sizes.most_common(1)[0]
    statistics = split.fixations
    yield "images", f"{num:,}"
    yield "shards", f"{len(split.shards):,}"
    yield "MB", f"{stored / 1e6:,.1f}"
    yield "kB per image", f"{stored / num / 1e3:,.1f}"
    yield "image sizes", f"{len(sizes):,}"
    yield "most common size (share)", f"{height} x {width} ({num_of_size / num:.0%})"
    yield "fixations", f"{sum(counts):,}"
    yield "per image: mean", f"{np.mean(counts):.1f}"
    yield "per image: minimum", f"{min(counts):,}"
    yield "per image: maximum", f"{max(counts):,}"
    yield "fixated pixels per image", f"{statistics.num_pixels / num:.1f}" if statistics else "-"
    yield "observers per image", f"{np.mean(observers):.1f}" if observers else "-"
    mean = "{:.3f}, {:.3f}".format(*statistics.mean) if statistics else "-"
    deviation = "{:.3f}, {:.3f}".format(*statistics.deviation) if statistics else "-"
    yield "mean position (x, y)", mean
    yield "standard deviation (x, y)", deviation
    yield "CC of map and fixations: mean", f"{np.mean(correlations):.3f}" if correlations else "-"
    yield "CC of map and fixations: minimum", f"{min(correlations):.3f}" if correlations else "-"


def _sources(manifest: Manifest) -> Iterator[str]:
    origin, dropped = manifest.origin, manifest.dropped
    sigma = "unknown sigma" if origin.sigma is None else f"sigma {origin.sigma:g} px"
    yield f"layout {origin.format}; edition {manifest.edition or 'not recorded'}"
    yield f"licence {manifest.licence or 'unknown; `build --licence` records it'}"
    yield f"density maps from {origin.maps}, {sigma}"
    if origin.split_seed is not None:
        yield f"random split into train and val, seed {origin.split_seed}"
    yield (
        f"dropped: {len(dropped.samples)} samples, {dropped.points_outside} fixations "
        f"outside, {dropped.empty_observers} empty observers"
    )
    yield f"digest {manifest.digest}"
