"""Pack a raw folder into numbered tars and a manifest; the same input gives the same bytes.

A shard is a fixed slice of the ordered samples: any number of threads or tasks writes the same
shards.  Each file is written whole or not at all, the manifest last.  A stopped build has no
manifest; the same build resumes with the missing shards.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.build.build_options import BuildOptions
from shards.build.parallel import Map
from shards.build.shard_task import (
    DENSITY_SUM,
    ShardContents,
    ShardTask,
    add_density,
    is_complete,
    write_shard,
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
from shards.files.picture_hash import near_duplicates, picture_hash
from shards.files.progress import progress_bar
from shards.files.store import Store
from shards.layouts import all_layouts, salicon
from shards.layouts.folders import find_licence
from shards.layouts.raw_samples import RawFolder, RawSample

logger = logging.getLogger(__name__)


def build(
    source: Path,
    out: Path | str,
    options: BuildOptions | None = None,
    *,
    map_: Map = map,
    progress: bool = True,
) -> Manifest:
    """Pack a raw folder into shards; keep a finished build of it, resume a stopped one.

    out: a folder here or in an object store (`s3://`, `gs://`).
    map_: applies a function to each shard's task, here or elsewhere.
    A new edition or licence is recorded in a finished build, since neither is part of the data.
    Raises ValueError if `out` holds anything else, or for unusable input; then `out` is emptied.
    Raises OSError if the storage fails; finished shards stay.
    """
    options = options or BuildOptions()
    raw = all_layouts.find_samples(source, options)
    sigma = raw.layout.sigma if options.blur is None else options.blur
    if sigma is None and not raw.has_maps:
        raise ValueError(
            f"{source} has no density maps, so they are made from the fixations: set the "
            "Gaussian's width with `python -m shards build --sigma PIXELS`, or "
            "--sigma-degrees DEGREES --pixels-per-degree PIXELS"
        )
    origin = Origin(
        fingerprint=raw.fingerprint,
        split_seed=raw.split_seed,
        shard_size=options.shard_size,
        skip_incomplete=options.skip_incomplete,
        format=raw.layout.name,
        maps="files" if raw.has_maps else "fixations",
        sigma=sigma,
        drop_duplicates=options.drop_duplicates,
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
            edition=options.edition or finished.edition,
            licence=options.licence or finished.licence or find_licence(source),
        )
        if stated != finished:
            store.put(MANIFEST, stated.dump().encode())
        clean(store, stated)
        logger.info("%s is already built from %s", out, source)
        return stated
    if raw.faults and not options.skip_incomplete:
        raise ValueError(_summary(raw.faults, raw.num_images))
    duplicates: list[Skipped] = []
    if options.drop_duplicates:
        raw, duplicates = _without_duplicates(raw)
        emptied = [split for split, samples in raw.splits.items() if not samples]
        if emptied:
            raise ValueError(
                f"{source}: no photographs left in {', '.join(emptied)}: all are also in train"
            )
    with unfinished(store, origin):
        _write_shards(store, raw, origin, map_, progress)
        manifest = _collect(store, raw, origin, options)
        left_out = (*manifest.dropped.samples, *duplicates)
        manifest = replace(manifest, dropped=replace(manifest.dropped, samples=left_out))
        store.put(MANIFEST, manifest.dump().encode())
        clean(store, manifest)
    return manifest


def _without_duplicates(raw: RawFolder) -> tuple[RawFolder, list[Skipped]]:
    """Drop photographs of other splits that are also in train; reads all photographs."""
    train = _hashes(raw, raw.splits.get("train", ()))
    splits, dropped = dict(raw.splits), []
    for name in splits.keys() - {"train"}:
        shown = near_duplicates(train, _hashes(raw, splits[name]))
        splits[name] = tuple(sample for sample in splits[name] if sample.image not in shown)
        dropped += [Skipped(file=a, reason=f"shows the same as {b}") for a, b in shown.items()]
    return replace(raw, splits=splits), sorted(dropped, key=lambda skipped: skipped.file)


def _hashes(raw: RawFolder, samples: Sequence[RawSample]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for sample in samples:
        with suppress(Exception):  # Unreadable photographs are reported later.
            found[sample.image] = picture_hash((raw.path / sample.image).read_bytes())
    return found


def _write_shards(store: Store, raw: RawFolder, origin: Origin, map_: Map, progress: bool) -> None:
    # Tasks may run in another working folder, and carry their own samples only.
    folder = replace(raw, path=raw.path.absolute(), splits={}, faults=())
    tasks = [
        ShardTask(
            out=store.url,
            file=_file(split, position),
            folder=folder,
            samples=samples[start : start + origin.shard_size],
            sigma=origin.sigma,
            with_sum=split == "train",
        )
        for split, samples in raw.splits.items()
        for position, start in enumerate(range(0, len(samples), origin.shard_size))
    ]
    sizes = store.sizes()
    missing = [task for task in tasks if not is_complete(store, sizes, task.file)]
    if len(missing) < len(tasks):
        logger.info("resuming: %d of %d shards are there", len(tasks) - len(missing), len(tasks))
    with progress_bar(raw.num_images, "build", "image", disable=not progress) as bar:
        bar.update(raw.num_images - sum(len(task.samples) for task in missing))
        for num_samples in map_(write_shard, missing):
            bar.update(num_samples)


def _collect(store: Store, raw: RawFolder, origin: Origin, options: BuildOptions) -> Manifest:
    """Make the manifest of all shards and write the centre prior; ValueError for faults."""
    faults = list(raw.faults)
    outside = empty = 0
    splits: dict[str, Split] = {}
    prior: NDArray[np.float64] | None = None
    for split, samples in raw.splits.items():
        all_contents = [
            ShardContents.read(store, _file(split, position))
            for position in range(-(-len(samples) // origin.shard_size))
        ]
        faults += [fault for contents in all_contents for fault in contents.faults]
        outside += sum(contents.points_outside for contents in all_contents)
        empty += sum(contents.empty_observers for contents in all_contents)
        all_contents = [contents for contents in all_contents if contents.samples]
        splits[split] = _join(all_contents)
        if split == "train":
            for contents in all_contents:
                added = np.load(io.BytesIO(store.read(contents.shard.file + DENSITY_SUM)))
                prior = add_density(prior, added, len(contents.samples))
    if faults and not origin.skip_incomplete:
        raise ValueError(_summary(faults, raw.num_images))
    if empty_splits := [split for split, content in splits.items() if not content.samples]:
        raise ValueError(_summary(faults, raw.num_images, empty_splits))
    edition = options.edition
    if edition is None and raw.layout.name.startswith("salicon"):
        edition = _edition(splits)
    return Manifest(
        name=raw.path.resolve().name,
        edition=edition,
        licence=options.licence or find_licence(raw.path),
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


def _join(all_contents: Sequence[ShardContents]) -> Split:
    entries = tuple(
        replace(entry, shard=position)
        for position, contents in enumerate(all_contents)
        for entry in contents.samples
    )
    if not entries:
        return Split(shards=(), samples=())
    counts = [entry.num_fixations for entry in entries]
    mean, squared = np.sum([contents.moments for contents in all_contents], axis=0) / sum(counts)
    deviation = np.sqrt(np.maximum(squared - mean * mean, 0))
    return Split(
        shards=tuple(contents.shard for contents in all_contents),
        samples=entries,
        fixations=FixationStatistics(
            num=sum(counts),
            num_pixels=sum(contents.num_pixels for contents in all_contents),
            least=min(counts),
            most=max(counts),
            mean=_rounded(mean),
            deviation=_rounded(deviation),
        ),
    )


def _rounded(pair: NDArray[np.float64]) -> tuple[float, float]:
    return round(float(pair[0]), 4), round(float(pair[1]), 4)


def _edition(splits: dict[str, Split]) -> str | None:
    entries = [entry for split in splits.values() for entry in split.samples]
    pixels = sum(split.fixations.num_pixels for split in splits.values() if split.fixations)
    return salicon.edition(entries[0].key, pixels / len(entries))


def _write_centre_prior(store: Store, total: NDArray[np.float64]) -> str:
    """Write train's mean density, (H, W) float32, at the first map's size; return its SHA-256."""
    content = io.BytesIO()
    np.save(content, (total / total.sum()).astype(np.float32), allow_pickle=False)
    store.put(CENTRE_PRIOR, content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def _file(split: str, position: int) -> str:
    return f"{split}-{position:06d}.tar"


def _summary(faults: Sequence[Skipped], num_images: int, empty: Sequence[str] = ()) -> str:
    kinds: dict[str, list[str]] = {}
    for fault in faults:
        kinds.setdefault(fault.reason, []).append(fault.file)
    counts = [
        f"{len(files)} of {num_images} images {kind} (first: {files[0]})"
        for kind, files in kinds.items()
    ]
    way_out = (
        f"no images are left in {', '.join(empty)}"
        if empty
        else "fetch them or pass --skip-incomplete"
    )
    return "; ".join([*counts, way_out])
