"""`python -m pipelines readouts`: compute the readouts of frozen encoders for later decoders."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from pipelines.config.options import ClusterOptions, StoreOptions
from pipelines.ray_cluster import check_nodes, connection
from pipelines.stages.frozen_encoders import (
    cache_folder,
    compute_readouts,
    find_packages,
    open_encoders,
)
from pipelines.tracking.best_encoders import number_of_best, resolve_best
from shards.files.manifest import Manifest
from shards.files.store import location


@dataclass(frozen=True, kw_only=True)
class ReadoutsCommand:
    """Compute and cache the readouts of frozen encoders, which decoders train from."""

    data: tuple[Path, ...]
    """Folders or URLs (s3://, gs://, https://) of shards, the same as the decoder trains on."""
    encoders: tuple[str, ...]
    """Encoders: MLflow runs, folders, or model URIs, which stand for all encoders of a model;
    `best`: the best run of each backbone on this data set."""
    splits: tuple[str, ...] = ("train", "val")
    """Splits to compute."""
    readouts: Path | None = None
    """Folder of cached readouts, shared by all decoders; default: runs/readouts."""
    compute: OmitArgPrefixes[ClusterOptions] = field(default_factory=ClusterOptions)
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)


def run(command: ReadoutsCommand) -> None:
    """Compute the readouts that are not cached yet."""
    if number_of_best(command.encoders):
        raise ValueError(
            f"{command.encoders[0]} is chosen by training decoders, which `decoder` does; give "
            "`best`, the best encoder of each backbone, or name the encoders"
        )
    data = [location(folder) for folder in command.data]
    manifest = Manifest.join([Manifest.load(folder) for folder in data])
    caches = cache_folder(command.readouts, Path("runs/any").absolute())
    connection.connect(command.compute)
    check_nodes.check(data, caches)
    uri, use_gpu = command.tracking.uri, command.compute.use_gpu
    names = resolve_best(command.encoders, uri, manifest.digest, "kl")
    with tempfile.TemporaryDirectory() as scratch:
        packages = find_packages(names, uri, Path(scratch))
        encoders = open_encoders(packages, manifest, caches)
        compute_readouts(data, encoders, use_gpu, command.splits)
