"""`python -m pipelines predict IN OUT`: predict many pictures with Ray tasks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tyro.conf import OmitArgPrefixes, Positional

from emlnet.data.images import SUFFIXES, decode_picture
from emlnet.inference import package
from emlnet.inference.package import Package
from emlnet.inference.predict_files import (
    Format,
    OutputFiles,
    check_stems,
    print_failed,
    print_left_out,
)
from emlnet.inference.predictor import Prediction
from emlnet.public_url import public_url
from emlnet.registry import mlflow_registry, model_sources
from pipelines.config.options import ClusterOptions, StoreOptions
from pipelines.ray_cluster import check_nodes, connection, tasks
from shards.files.manifest import MANIFEST, Manifest
from shards.files.store import Store, location
from shards.read.reader import ShardReader

MARKER = "predict.json"
"""The file in OUT that records the model, source and options of its maps."""


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Predict any number of pictures, in a folder or shards; the same command resumes."""

    source: Positional[str]
    """Folder of pictures (searched through) or of shards; a path, s3:// or gs://."""
    out: Positional[str]
    """Folder for the maps, outside the source, with the same subfolders: <stem>_smap.png; a path,
    s3:// or gs://."""
    model: str = f"models:/{mlflow_registry.NAME}@{mlflow_registry.CHAMPION}"
    """Folder, archive or address of a model, models:/emlnet@ALIAS, ... or runs:/RUN_ID."""
    format: Format = "png"
    """As in `emlnet predict`: png, png16, npy or log-npy."""
    flip: bool = False
    """Average with the mirrored picture's map."""
    overlay: bool = False
    """Also write <stem>_overlay.png."""
    batch_size: int = 64
    """Pictures per Ray task."""
    precision: Literal["auto", "full", "half"] = "auto"
    """Bits in which backbones compute: `full`, 32; `half`, 16; `auto`, 16 on a GPU only."""
    compute: OmitArgPrefixes[ClusterOptions] = field(default_factory=ClusterOptions)
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, not {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class PictureSource:
    """Pictures of a folder (named by relative path) or of shards (`split/position`)."""

    url: str
    is_shards: bool

    def items(self) -> list[tuple[str, str]]:
        """Return each picture's name and the stem of its maps.

        Raises ValueError if there are no pictures, or two maps would have the same name.
        """
        if self.is_shards:
            found = [
                (f"{split}/{position}", key)
                for split in Manifest.load(self.url).splits
                for position, key in enumerate(ShardReader(self.url, split).keys)
            ]
        else:
            paths = [PurePosixPath(name) for name in visible(Store(self.url))]
            pictures = [path for path in paths if path.suffix.lower() in SUFFIXES]
            print_left_out([Path(path) for path in paths if path not in pictures])
            found = [(str(path), str(path.with_suffix(""))) for path in pictures]
        if not found:
            raise ValueError(f"{public_url(self.url)} holds no pictures ({', '.join(SUFFIXES)})")
        check_stems([stem for _, stem in found])
        return found

    def read(self, name: str) -> NDArray[np.uint8]:
        """Read a picture (H, W, 3).  Raises ValueError that names it if it cannot be read."""
        if self.is_shards:
            split, _, position = name.rpartition("/")
            sample = _open_split(self.url, split).sample(int(position))
            return decode_picture(sample.image, sample.key)
        try:
            data = Store(self.url).read(name)
        except OSError as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
        return decode_picture(data, name)


_open_split = lru_cache(maxsize=8)(ShardReader)


def run(command: PredictCommand) -> int:
    """Predict the pictures that have no map yet; return 1 if one could not be read."""
    source, out = (Store(location(folder)) for folder in (command.source, command.out))
    if f"{real_place(out)}/".startswith(f"{real_place(source)}/"):
        raise ValueError(
            f"{public_url(out.url)} lies in {public_url(source.url)}: its maps would be taken for "
            "pictures; name an OUT outside of it"
        )
    pictures = PictureSource(url=source.url, is_shards=source.exists(MANIFEST))
    everything = pictures.items()
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_sources.resolve(command.model, command.tracking.uri, Path(scratch) / "model")
        weights = package.read_description(folder).files[package.WEIGHTS]
        model = package.load(folder)
    options = {key: getattr(command, key) for key in ("format", "precision", "flip", "overlay")}
    about = {"weights_sha256": weights, "source": public_url(source.url), **options}
    done = open_out(out, about)
    ending = OutputFiles(format=command.format).ending
    remaining = [(name, stem) for name, stem in everything if f"{stem}{ending}" not in done]
    print(f"{len(everything)} pictures, {len(everything) - len(remaining)} done before", flush=True)
    if not remaining:
        return 0
    connection.connect(command.compute)
    paths = [Path(store.url) if store.is_local else store.url for store in (source, out)]
    check_nodes.check(paths[:1], paths[1])
    parts = tasks.map_parts(
        predict_part,
        tasks.split(len(remaining), command.batch_size),
        model,
        pictures,
        out.url,
        np.array(remaining),  # Ray tasks share an array, but copy a list.
        command,
        title="maps",
        unit="picture",
        use_gpu=command.compute.use_gpu,
    )
    failed = [line for part in parts for line in part]
    print_failed(failed)
    place = public_url(out.url)
    num = len(everything) - len(failed)
    print(f"maps in {place}: {num}. NAME{ending} is the map of NAME")
    return 1 if failed else 0


def predict_part(
    part: Sequence[int],
    device: torch.device,
    model: Package,
    pictures: PictureSource,
    out: str,
    remaining: NDArray[np.str_],
    command: PredictCommand,
) -> list[str]:
    """Predict some pictures and write their maps; return an error for each unreadable one.

    part: rows of `remaining`, (N, 2) names and stems.
    """
    half = command.precision == "half" or (command.precision == "auto" and device.type == "cuda")
    model = Package(model=model.model.to(device).eval(), half=half)
    output_files = OutputFiles(format=command.format, overlay=command.overlay)
    store, failed = Store(out), []
    for name, stem in remaining[part]:
        try:
            picture = pictures.read(str(name))
        except ValueError as error:
            failed.append(str(error))
            continue
        write(store, str(stem), output_files, picture, model.predict(picture, command.flip))
    return failed


def write(
    out: Store,
    stem: str,
    output_files: OutputFiles,
    picture: NDArray[np.uint8],
    prediction: Prediction,
) -> None:
    """Write a picture's files, the map last: it marks the picture as done."""
    if out.is_local:
        output_files.write(Path(out.root) / stem, picture, prediction)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = PurePosixPath(stem).parent
        last = output_files.write(Path(scratch) / PurePosixPath(stem).name, picture, prediction)
        for file in sorted(Path(scratch).iterdir(), key=lambda file: file == last):
            out.put(str(folder / file.name), file.read_bytes())


def open_out(out: Store, about: dict[str, Any]) -> set[str]:
    """Return the names of the files in OUT; create OUT if it is new.

    Raises ValueError if it holds maps of another model, source or options, or other files.
    """
    names = set(visible(out))
    known = json.loads(out.read(MARKER)) if MARKER in names else None
    if known is None and names:
        raise ValueError(f"{public_url(out.url)} holds other files ({min(names)}); name a new OUT")
    if known is None:
        out.make()
        out.put(MARKER, json.dumps(about, indent=1).encode())
    elif known != about:
        changed = ", ".join(name for name in about if known.get(name) != about[name])
        raise ValueError(
            f"{public_url(out.url)} holds maps of another run ({changed} differ); name a new OUT"
        )
    return names


def visible(store: Store) -> list[str]:
    """Return the files below a folder as sorted relative paths, without hidden ones."""
    return sorted(name for name in store.find() if "/." not in f"/{name}")


def real_place(store: Store) -> str:
    """Return a folder's path with links resolved, or its URL."""
    return str(Path(store.url).resolve()) if store.is_local else store.url
