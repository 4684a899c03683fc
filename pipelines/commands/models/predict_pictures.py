"""`python -m pipelines predict IN OUT`: maps of very many pictures, by Ray Data on the cluster."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from tyro.conf import OmitArgPrefixes, Positional

from emlnet.data.images import SUFFIXES
from emlnet.inference import package
from emlnet.inference.package import Package
from emlnet.inference.predict_files import Drawing, Format, check_stems
from emlnet.models.precision import set_precision
from emlnet.registry import mlflow_registry
from pipelines.commands.models.picture_source import Pictures, Place
from pipelines.config.options import ClusterOptions, StoreOptions
from pipelines.ray_cluster import check_nodes, connection
from pipelines.ray_cluster.sizing import has_gpu
from shards.files.manifest import MANIFEST
from shards.files.progress import SECONDS_BETWEEN_LINES

MARKER = "predict.json"
"""The file of OUT that says what its maps are of."""
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Predict a folder of pictures, or shards, of any number; goes on where it stopped."""

    source: Positional[str]
    """Folder of pictures (searched through) or of shards; a path, s3:// or gs://."""
    out: Positional[str]
    """Folder for the maps, outside the source: <stem>_smap.png below it as there; a path, s3:// or
    gs://."""
    model: str = f"models:/{mlflow_registry.NAME}@{mlflow_registry.CHAMPION}"
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
    compute: OmitArgPrefixes[ClusterOptions] = field(default_factory=ClusterOptions)
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"a batch holds at least one picture, not {self.batch_size}")


class Predictor:
    """One worker: predicts batches of names and writes their answers."""

    def __init__(
        self, model: Any, pictures: Pictures, out: Place, drawing: Drawing, flip: bool, half: bool
    ) -> None:
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        if device == "cpu":
            torch.set_num_threads(1)
        set_precision("float32")
        loaded: Package = ray.get(model)
        self.model = Package(model=loaded.model.to(device).eval(), half=half)
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
    source, out = Place(url=_absolute(command.source)), Place(url=_absolute(command.out))
    if source.holds(out):
        raise ValueError(
            f"{out.url} lies in {source.url}: maps do not belong among what they are made of; name "
            "an OUT elsewhere"
        )
    pictures = Pictures(place=source, shards=source.store.exists(MANIFEST))
    everything = list(pictures.items())
    if not everything:
        raise ValueError(f"{source.url} holds no pictures ({', '.join(SUFFIXES)})")
    check_stems([stem for _, stem in everything])
    with tempfile.TemporaryDirectory() as scratch:
        folder = mlflow_registry.resolve(
            command.model, command.tracking.uri, Path(scratch) / "model"
        )
        weights = package.read_description(folder).files[package.WEIGHTS]
        model = package.load(folder)
    drawing = Drawing(format=command.format, overlay=command.overlay)
    about = {
        "weights_sha256": weights,
        "source": source.url,
        "format": command.format,
        "precision": command.precision,
        "flip": command.flip,
        "overlay": command.overlay,
    }
    done = open_out(out, about)
    ending = "_smap.npy" if command.format.endswith("npy") else "_smap.png"
    items = [
        {"name": name, "stem": stem} for name, stem in everything if f"{stem}{ending}" not in done
    ]
    print(f"{len(everything)} pictures, {len(everything) - len(items)} done before", flush=True)
    if not items:
        return 0
    connection.connect(command.compute)
    check_nodes.check([source.local or source.url], out.local)
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
    use_gpu = has_gpu(command.compute.use_gpu)
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
        runtime_env={"env_vars": connection.WORKER_ENV},
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
            rate = (number - len(failed)) / (now - began)
            left = (now - began) / number * (len(items) - number)
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
    names = set(out.names())
    if known is None:
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
