"""A raw folder -> numbered tars and their manifest; the same input gives the same bytes.

A shard is a fixed slice of the samples in order, so any number of processes writes the same ones.
All is written under temporary names and put in place at the end, the manifest last: a build that
was stopped has none. `manifest.json.tmp` marks a folder as that of an unfinished build and tells of
what; the same build resumes there with the shards that are missing.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.build.duplicates import drop_duplicates as without_duplicates
from shards.build.parallel import Map
from shards.build.parts import (
    DENSITY_SUM,
    RECORD,
    TEMPORARY,
    ShardRecord,
    ShardTask,
    add_density,
    is_done,
    without_samples,
    write_part,
)
from shards.build.unfinished import clean, unfinished
from shards.files.manifest import (
    CENTRE_PRIOR,
    MANIFEST,
    Dropped,
    FixationStatistics,
    Manifest,
    Origin,
    Skipped,
    Split,
)
from shards.files.progress import progress_bar
from shards.files.store import Store
from shards.layouts import all_layouts, salicon
from shards.layouts.folders import find_licence
from shards.layouts.raw_samples import RawFolder, RawSample, SourceOptions

logger = logging.getLogger(__name__)

SHARD_SIZE = 100


def build(
    source: Path,
    out: Path | str,
    options: SourceOptions | None = None,
    *,
    format: str | None = None,
    sigma: float | None = None,
    edition: str | None = None,
    licence: str | None = None,
    shard_size: int = SHARD_SIZE,
    skip_incomplete: bool = False,
    drop_duplicates: bool = False,
    map_: Map = map,
    progress: bool = True,
) -> Manifest:
    """Packs a raw folder into shards; keeps a finished build of it, resumes a stopped one.

    out: a folder, or one of an object store (`s3://`, `gs://`).  format: the source's layout, found
    when None.  sigma: pixels of the Gaussian of density maps, the layout's when None.
    edition: of the source, where it is known better than by its statistics.
    licence: of the source, the first line of its file LICENSE when None.  Neither is part of the
    data: stated for a finished build, they are recorded in it, else what it says stays.
    shard_size: most samples of a shard.  skip_incomplete: leave out, count and record samples that
    cannot be used.  drop_duplicates: leave photographs that train shows too out of other splits.
    map_: applies a function to each shard's task, here or elsewhere.
    Raises ValueError for input that cannot be used or an `out` that holds anything else; then
    nothing is left in `out`. OSError when storage fails: what is finished stays there.
    """
    if shard_size < 1:
        raise ValueError(f"a shard must hold at least 1 sample, not {shard_size}")
    if sigma is not None and not 0 < sigma < math.inf:
        raise ValueError(f"the sigma of density maps is a number of pixels above 0, not {sigma}")
    raw = all_layouts.walk(source, options, format)
    sigma = raw.sigma if sigma is None else sigma
    if sigma is None and not raw.has_maps:
        raise ValueError(
            f"{source} has no density maps, so they are made from the fixations: say how wide with "
            "`python -m shards build --sigma PIXELS`, or --sigma-degrees DEGREES "
            "--pixels-per-degree PIXELS"
        )
    origin = Origin(
        fingerprint=raw.fingerprint,
        split_seed=raw.split_seed,
        shard_size=shard_size,
        skip_incomplete=skip_incomplete,
        format=raw.format,
        maps="files" if raw.has_maps else "fixations",
        sigma=sigma,
        drop_duplicates=drop_duplicates,
    )
    store = Store(out)
    if store.exists(MANIFEST):
        finished = Manifest.load(out)
        if finished.origin != origin:
            raise ValueError(
                f"{out} holds a data set built from other files or options; "
                "delete it or choose another folder"
            )
        stated = replace(
            finished,
            edition=edition or finished.edition,
            licence=licence or finished.licence or find_licence(source),
        )
        if stated != finished:
            store.put(MANIFEST, stated.dump().encode())
        clean(store, stated)
        logger.info("%s is already built from %s", out, source)
        return stated
    if raw.faults and not skip_incomplete:
        raise ValueError(_summary(_skipped(raw), raw.num_images))
    duplicates: list[Skipped] = []
    if drop_duplicates:
        raw, duplicates = without_duplicates(raw)
        emptied = [split for split, samples in raw.splits.items() if not samples]
        if emptied:
            raise ValueError(f"{source}: train shows every photograph of {', '.join(emptied)}")
    with unfinished(store, origin):
        _write_parts(store, raw, origin, map_, progress)
        manifest = _collect(store, raw, origin, edition, licence or find_licence(source))
        left_out = (*manifest.dropped.samples, *duplicates)
        manifest = replace(manifest, dropped=replace(manifest.dropped, samples=left_out))
        _put_in_place(store, manifest)
    return manifest


def _write_parts(store: Store, raw: RawFolder, origin: Origin, map_: Map, progress: bool) -> None:
    """Writes the shards that are not there yet."""
    tasks = [
        ShardTask(
            out=store.url,
            file=_file(split, position),
            folder=without_samples(raw),
            samples=samples[position * origin.shard_size : (position + 1) * origin.shard_size],
            sigma=origin.sigma,
            with_sum=split == "train",
        )
        for split, samples in raw.splits.items()
        for position in range(_num_parts(samples, origin.shard_size))
    ]
    sizes = store.sizes()
    missing = [task for task in tasks if not is_done(store, sizes, task.file)]
    if len(missing) < len(tasks):
        logger.info("resuming: %d of %d shards are there", len(tasks) - len(missing), len(tasks))
    with progress_bar(raw.num_images, "build", "image", disable=not progress) as bar:
        bar.update(raw.num_images - sum(len(task.samples) for task in missing))
        for num_samples in map_(write_part, missing):
            bar.update(num_samples)


def _collect(
    store: Store, raw: RawFolder, origin: Origin, edition: str | None, licence: str | None
) -> Manifest:
    """The manifest of all parts; writes the centre prior.  Raises ValueError for their faults."""
    faults = _skipped(raw)
    outside = empty = 0
    splits: dict[str, Split] = {}
    prior: NDArray[np.float64] | None = None
    for split, samples in raw.splits.items():
        parts = [
            ShardRecord.parse(store.read(_file(split, position) + RECORD))
            for position in range(_num_parts(samples, origin.shard_size))
        ]
        faults += [fault for part in parts for fault in part.faults]
        outside += sum(part.points_outside for part in parts)
        empty += sum(part.empty_observers for part in parts)
        parts = [part for part in parts if part.samples]
        splits[split] = _join(parts)
        if split == "train":
            for part in parts:
                added = np.load(io.BytesIO(store.read(part.shard.file + DENSITY_SUM)))
                prior = add_density(prior, added, len(part.samples))
    if faults and not origin.skip_incomplete:
        raise ValueError(_summary(faults, raw.num_images))
    if empty_splits := [split for split, content in splits.items() if not content.samples]:
        raise ValueError(_summary(faults, raw.num_images, empty_splits))
    if raw.format.startswith("salicon"):
        edition = edition or _edition(splits)
    return Manifest(
        name=raw.path.resolve().name,
        edition=edition,
        licence=licence,
        splits=splits,
        dropped=Dropped(
            points_outside=outside,
            empty_observers=empty,
            samples=tuple(faults),
            unlabelled_splits=raw.unlabelled,
        ),
        origin=origin,
        centre_prior_sha256=None if prior is None else _write_centre_prior(store, prior),
    )


def _join(parts: Sequence[ShardRecord]) -> Split:
    entries = tuple(
        replace(entry, shard=position)
        for position, part in enumerate(parts)
        for entry in part.samples
    )
    if not entries:
        return Split(shards=(), samples=())
    counts = [entry.num_fixations for entry in entries]
    x, y, xx, yy = np.sum([part.moments for part in parts], axis=0) / sum(counts)
    deviation = np.sqrt(np.maximum([xx - x * x, yy - y * y], 0))
    return Split(
        shards=tuple(part.shard for part in parts),
        samples=entries,
        fixations=FixationStatistics(
            num=sum(counts),
            num_pixels=sum(part.num_pixels for part in parts),
            least=min(counts),
            most=max(counts),
            mean=(round(float(x), 4), round(float(y), 4)),
            deviation=(round(float(deviation[0]), 4), round(float(deviation[1]), 4)),
        ),
    )


def _edition(splits: dict[str, Split]) -> str | None:
    entries = [entry for split in splits.values() for entry in split.samples]
    pixels = sum(split.fixations.num_pixels for split in splits.values() if split.fixations)
    return salicon.edition(entries[0].key, pixels / len(entries))


def _write_centre_prior(store: Store, total: NDArray[np.float64]) -> str:
    """Writes train's mean density, (H, W) float32, as large as its first; gives its SHA-256."""
    content = io.BytesIO()
    np.save(content, (total / total.sum()).astype(np.float32), allow_pickle=False)
    store.put(CENTRE_PRIOR, content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def _put_in_place(store: Store, manifest: Manifest) -> None:
    """Gives shards their names, then writes the manifest, then removes what is left over."""
    waiting = store.sizes()
    for shard in manifest.shards:
        if shard.file + TEMPORARY in waiting:
            store.move(shard.file + TEMPORARY, shard.file)
    store.put(MANIFEST, manifest.dump().encode())
    clean(store, manifest)


def _skipped(raw: RawFolder) -> list[Skipped]:
    return [Skipped(file=fault.what, reason=fault.kind) for fault in raw.faults]


def _file(split: str, position: int) -> str:
    return f"{split}-{position:06d}.tar"


def _num_parts(samples: Sequence[RawSample], shard_size: int) -> int:
    return -(-len(samples) // shard_size)


def _summary(faults: Sequence[Skipped], num_images: int, empty: Sequence[str] = ()) -> str:
    kinds: dict[str, list[str]] = {}
    for fault in faults:
        kinds.setdefault(fault.reason, []).append(fault.file)
    counts = [
        f"{len(files)} of {num_images} images {kind} (first: {files[0]})"
        for kind, files in kinds.items()
    ]
    way_out = (
        f"nothing is left of {', '.join(empty)}"
        if empty
        else "fetch them or pass --skip-incomplete"
    )
    return "; ".join([*counts, way_out])
