"""`python -m pipelines predict IN OUT`: maps of very many pictures, by Ray Data on the cluster."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import fsspec
import numpy as np
import ray
import torch
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray
from tyro.conf import OmitArgPrefixes, Positional

from emlnet import package, registry
from emlnet.package import Package
from emlnet.picture import decode_picture
from emlnet.predict import SUFFIXES, Drawing, Format
from pipelines import trainer
from pipelines.config import Cluster, Store
from shards.manifest import MANIFEST, Manifest
from shards.reader import ShardReader

MARKER = "predict.json"
"""The file of OUT that says what its maps are of."""
SECONDS_BETWEEN_LINES = 10
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Predict a folder of pictures, or shards, of any number; goes on where it stopped."""

    source: Positional[str]
    """Folder of pictures (searched through) or of shards; a path, s3:// or gs://."""
    out: Positional[str]
    """Folder for the maps, <stem>_smap.png below it as in the source; a path, s3:// or gs://."""
    model: str = f"models:/{registry.NAME}@{registry.CHAMPION}"
    """Folder, archive or address of a model, models:/emlnet@ALIAS, ... or runs:/RUN_ID."""
    format: Format = "png"
    """As in `emlnet predict`: png, png16, npy or log-npy."""
    flip: bool = False
    """Average with the mirrored picture's map."""
    overlay: bool = False
    """Also write <stem>_overlay.png."""
    batch_size: int = 16
    """Pictures that a worker takes at once."""
    precision: Literal["auto", "full", "half"] = "auto"
    """Bits in which backbones compute: `full`, 32; `half`, 16; `auto`, 16 on a GPU alone."""
    compute: OmitArgPrefixes[Cluster] = field(default_factory=Cluster)
    tracking: OmitArgPrefixes[Store] = field(default_factory=Store)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder on this machine or in an object store."""

    url: str

    @property
    def _opened(self) -> tuple[Any, str]:
        files, root = fsspec.core.url_to_fs(self.url)
        return files, root.rstrip("/")

    def names(self) -> list[str]:
        """The files below it, hidden ones left out, as relative paths in order."""
        files, root = self._opened
        found = [PurePosixPath(path).relative_to(root) for path in files.find(root)]
        return sorted(str(p) for p in found if not any(part.startswith(".") for part in p.parts))

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        files, root = self._opened
        return bytes(files.cat_file(f"{root}/{name}"))

    def put(self, local: Path, name: str) -> None:
        """Brings a local file there, whole or not at all."""
        files, root = self._opened
        target = f"{root}/{name}"
        if isinstance(files, LocalFileSystem):
            temporary = Path(target).with_name(f".{Path(target).name}.tmp")
            temporary.parent.mkdir(parents=True, exist_ok=True)
            files.put_file(str(local), str(temporary))
            temporary.replace(target)
        else:
            files.put_file(str(local), target)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is predicted: files of a folder, or the samples of shards.

    Its items are names: a relative path, or `split/position` of a sample.
    """

    place: Place
    shards: bool

    def items(self) -> Iterator[tuple[str, str]]:
        """Each picture's name and the stem of its answers."""
        if not self.shards:
            for name in self.place.names():
                if PurePosixPath(name).suffix.lower() in SUFFIXES:
                    yield name, str(PurePosixPath(name).with_suffix(""))
            return
        for split in Manifest.load(self.place.url).splits:
            for position, key in enumerate(ShardReader(self.place.url, split).keys):
                yield f"{split}/{position}", key

    def reader(self) -> PictureReader:
        """What reads them, in a worker."""
        return PictureReader(self)


class PictureReader:
    """Reads pictures by name; keeps each split's manifest."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.splits: dict[str, ShardReader] = {}

    def read(self, name: str) -> NDArray[np.uint8]:
        """(H, W, 3) uint8.  Raises ValueError that names the picture."""
        if not self.pictures.shards:
            try:
                data = self.pictures.place.read(name)
            except OSError as error:
                raise ValueError(f"{name} cannot be read: {error}") from error
            return decode_picture(data, name)
        split, _, position = name.rpartition("/")
        if split not in self.splits:
            self.splits[split] = ShardReader(self.pictures.place.url, split)
        sample = self.splits[split].sample(int(position))
        return decode_picture(sample.image, sample.key)


class Predictor:
    """One worker: predicts batches of names and writes their answers."""

    def __init__(
        self, model: Any, pictures: Pictures, out: Place, drawing: Drawing, flip: bool, half: bool
    ) -> None:
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        if device == "cpu":
            torch.set_num_threads(1)
        loaded: Package = ray.get(model)
        self.model = Package(model=loaded.model.to(device).eval(), half=half or device == "cuda")
        self.reader, self.out, self.drawing, self.flip = pictures.reader(), out, drawing, flip

    def __call__(self, batch: Columns) -> Columns:
        """Columns `name` and `stem` to `name` and `error`, empty where all went well."""
        errors = []
        for name, stem in zip(batch["name"], batch["stem"], strict=True):
            try:
                self._one(str(name), str(stem))
                errors.append("")
            except ValueError as error:
                errors.append(str(error))
        return {"name": batch["name"], "error": np.array(errors, dtype=object)}

    def _one(self, name: str, stem: str) -> None:
        picture = self.reader.read(name)
        prediction = self.model.predict(picture, self.flip)
        with tempfile.TemporaryDirectory() as scratch:
            own = Path(scratch) / PurePosixPath(stem).name
            last = self.drawing.write(picture, prediction, own)
            # The map last: it says that the picture is done.
            for file in sorted(Path(scratch).iterdir(), key=lambda file: file == last):
                self.out.put(file, str(PurePosixPath(stem).with_name(file.name)))


def run(command: PredictCommand) -> int:
    """Predicts what has no map yet; 1 when a picture could not be read."""
    source, out = _absolute(command.source), Place(url=_absolute(command.out))
    pictures = Pictures(place=Place(url=source), shards=_is_shards(source))
    with tempfile.TemporaryDirectory() as scratch:
        folder = registry.resolve(command.model, command.tracking.uri, Path(scratch) / "model")
        weights = package.read_description(folder)["files"][package.WEIGHTS]
        model = package.load(folder)
    drawing = Drawing(format=command.format, overlay=command.overlay)
    about = {
        "weights_sha256": weights,
        "source": source,
        "format": command.format,
        "flip": command.flip,
        "overlay": command.overlay,
    }
    done = open_out(out, about)
    ending = "_smap.npy" if command.format.endswith("npy") else "_smap.png"
    everything = list(pictures.items())
    items = [
        {"name": name, "stem": stem} for name, stem in everything if f"{stem}{ending}" not in done
    ]
    if not everything:
        raise ValueError(f"{source} holds no pictures ({', '.join(SUFFIXES)})")
    print(f"{len(everything)} pictures, {len(everything) - len(items)} done before", flush=True)
    if not items:
        return 0
    trainer.connect(command.compute)
    failed = predict_items(items, model, pictures, out, drawing, command)
    for line in failed[:50]:
        print(f"could not be read: {line}")
    return 1 if failed else 0


def predict_items(
    items: list[dict[str, str]],
    model: Package,
    pictures: Pictures,
    out: Place,
    drawing: Drawing,
    command: PredictCommand,
) -> list[str]:
    """Predicts items by Ray Data, with progress; returns what went wrong, a line a picture."""
    has = ray.cluster_resources()
    num_gpus = int(has.get("GPU", 0))
    use_gpu = num_gpus > 0 if command.compute.use_gpu is None else command.compute.use_gpu
    if use_gpu and not num_gpus:
        raise ValueError("the cluster has no GPU; drop --use-gpu")
    num_workers = num_gpus if use_gpu else max(1, int(has.get("CPU", 1)))
    quiet_data()
    half = command.precision == "half"
    if command.precision == "auto":
        half = use_gpu
    blocks = max(1, min(len(items) // command.batch_size, 16 * num_workers))
    answers = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        Predictor,
        fn_constructor_args=(
            ray.put(model), pictures, out, drawing, command.flip, half,
        ),
        batch_size=command.batch_size,
        num_cpus=1,
        num_gpus=1 if use_gpu else 0,
        concurrency=(1, num_workers),
        runtime_env={"env_vars": trainer.WORKER_ENV},
    )  # fmt: skip
    failed: list[str] = []
    began = last = time.monotonic()
    number = 0
    for batch in answers.iter_batches(batch_size=command.batch_size):
        number += len(batch["error"])
        failed += [str(error) for error in batch["error"] if error]
        now = time.monotonic()
        if now - last > SECONDS_BETWEEN_LINES or number == len(items):
            last = now
            rate = number / (now - began)
            left = (len(items) - number) / rate
            print(f"[{number}/{len(items)}] {rate:.1f} pictures a second, {left:.0f} s left")
    return failed


def open_out(out: Place, about: dict[str, Any]) -> set[str]:
    """The files that OUT holds, after it was checked that its maps are of this model and source.

    Raises ValueError when they are not.
    """
    try:
        known = json.loads(out.read(MARKER))
    except FileNotFoundError:
        known = None
    names = set(out.names()) if known is not None else set()
    if known is None:
        with contextlib.suppress(FileNotFoundError):
            names = set(out.names())
        if names:
            raise ValueError(f"{out.url} holds other files ({sorted(names)[0]}); name a new OUT")
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / MARKER
            local.write_text(json.dumps(about, indent=1))
            out.put(local, MARKER)
    elif known != about:
        changed = ", ".join(name for name in about if known.get(name) != about[name])
        raise ValueError(f"{out.url} holds maps of another run ({changed} differ); name a new OUT")
    return names


def quiet_data() -> None:
    """Without Ray Data's own progress bars and log lines."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _absolute(url: str) -> str:
    """A URL as it is, a path absolute: workers have other working folders."""
    return url.rstrip("/") if "://" in url else str(Path(url).expanduser().absolute())


def _is_shards(url: str) -> bool:
    files, root = fsspec.core.url_to_fs(f"{url}/{MANIFEST}")
    return bool(files.isfile(root))
