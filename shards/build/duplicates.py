"""Photographs that stand in train and in another split, exactly or encoded anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shards.files.manifest import Skipped
from shards.files.picture_hash import near_duplicates, picture_hash
from shards.layouts.raw_samples import RawFolder, RawSample


def drop_duplicates(raw: RawFolder) -> tuple[RawFolder, list[Skipped]]:
    """Leaves out of other splits the photographs that train has too; reads all photographs."""
    train = raw.splits.get("train", ())
    known = _hashes(raw, train)
    splits, dropped = dict(raw.splits), []
    for name in splits.keys() - {"train"}:
        samples = splits[name]
        pairs = {second: first for first, second in near_duplicates(known, _hashes(raw, samples))}
        splits[name] = tuple(s for number, s in enumerate(samples) if number not in pairs)
        dropped += [
            Skipped(file=samples[second].image, reason=f"shows what {train[first].image} does")
            for second, first in pairs.items()
        ]
    return replace(raw, splits=splits), sorted(dropped, key=lambda skipped: skipped.file)


def _hashes(raw: RawFolder, samples: Sequence[RawSample]) -> list[str]:
    found = []
    for sample in samples:
        try:
            found.append(picture_hash((raw.path / sample.image).read_bytes()))
        except Exception:  # A photograph that cannot be read is refused by name later.
            found.append("0" * 32)
    return found
