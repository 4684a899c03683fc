"""A table of a data set's contents, and warnings about it; reads only its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.files.manifest import Manifest, Split
from shards.files.picture_hash import near_duplicates

OUTSIDE = 0.1
"""A larger share of fixations outside their images suggests wrong units."""
DISAGREES = 0.5
"""A lower correlation of a density map with one made from its fixations is doubtful."""


def table(manifest: Manifest, folder: Path | str) -> str:
    """Return a table with a column per split, then the sources of maps, edition and splits."""
    import pandas as pd  # Slow to import; only this command needs it.

    rows = pd.DataFrame({name: dict(_describe(split)) for name, split in manifest.splits.items()})
    return "\n".join([f"{manifest.name} ({folder})", rows.to_string(), *_sources(manifest)])


def warnings(manifest: Manifest) -> Iterator[str]:
    """Yield warnings: fixations outside pictures, maps that disagree with them, duplicates."""
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
                f"{len(wrong)} of {len(known)} density maps disagree with maps made of their "
                f"fixations: the correlation is below {DISAGREES} (least: {wrong[0][1]}, "
                f"{wrong[0][0]}); are they of other images, or is --sigma far off?"
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
                f"{len(shown)} of {len(others)} photographs of {name} are in train too, exactly or "
                f"encoded again (first: {first}, {shown[first]}); `build --drop-duplicates` leaves "
                "them out"
            )


def _describe(split: Split) -> Iterator[tuple[str, str]]:
    entries, num = split.samples, len(split.samples)
    stored = sum(shard.num_bytes for shard in split.shards)
    counts = [entry.num_fixations for entry in entries]
    observers = [entry.num_observers for entry in entries if entry.num_observers is not None]
    agreed = [entry.density_cc for entry in entries if entry.density_cc is not None]
    sizes = Counter((entry.height, entry.width) for entry in entries)
    (height, width), most = sizes.most_common(1)[0]
    places = split.fixations
    yield "images", f"{num:,}"
    yield "shards", f"{len(split.shards):,}"
    yield "MB", f"{stored / 1e6:,.1f}"
    yield "kB an image", f"{stored / num / 1e3:,.1f}"
    yield "image sizes", f"{len(sizes):,}"
    yield "most common (share)", f"{height} x {width} ({most / num:.0%})"
    yield "fixations", f"{sum(counts):,}"
    yield "an image: mean", f"{np.mean(counts):.1f}"
    yield "an image: least", f"{min(counts):,}"
    yield "an image: most", f"{max(counts):,}"
    yield "fixated pixels an image", f"{places.num_pixels / num:.1f}" if places else "-"
    yield "observers an image", f"{np.mean(observers):.1f}" if observers else "-"
    yield "mean place (x, y)", "{:.3f}, {:.3f}".format(*places.mean) if places else "-"
    yield "deviation (x, y)", "{:.3f}, {:.3f}".format(*places.deviation) if places else "-"
    yield "map against fixations, CC", f"{np.mean(agreed):.3f}" if agreed else "-"
    yield "the same, least", f"{min(agreed):.3f}" if agreed else "-"


def _sources(manifest: Manifest) -> Iterator[str]:
    origin, dropped = manifest.origin, manifest.dropped
    sigma = "of unknown sigma" if origin.sigma is None else f"sigma {origin.sigma:g} px"
    yield f"layout {origin.format}; edition {manifest.edition or 'not known, or the only one'}"
    yield f"licence {manifest.licence or 'unknown; `build --licence` records it'}"
    yield f"density maps from {origin.maps}, {sigma}"
    if origin.split_seed is not None:
        yield f"train and val split here, seed {origin.split_seed}"
    yield (
        f"dropped: {len(dropped.samples)} samples, {dropped.points_outside} fixations "
        f"outside, {dropped.empty_observers} empty observers"
    )
    yield f"digest {manifest.digest}"
