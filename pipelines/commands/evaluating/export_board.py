"""Predictions as public boards take them: SALICON's PNGs, MIT/Tuebingen's HDF5 of log-densities."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tyro.conf import OmitArgPrefixes, Positional

from emlnet.data.images import read_picture
from emlnet.data.maps import log_softmax, resize
from emlnet.inference.package import Package
from emlnet.inference.predictor import Prediction
from emlnet.registry import mlflow_registry
from pipelines.config.options import StoreOptions
from pipelines.evaluation.score_maps import HDF5, PICTURES
from shards.files.progress import progress_bar

SALICON_SIZE = (480, 640)


@dataclass(frozen=True, kw_only=True)
class ExportBoardCommand:
    """Predict the pictures of a public board and write what it takes."""

    model: Positional[str]
    """Folder of a model, models:/emlnet@ALIAS, models:/emlnet/VERSION or runs:/RUN_ID."""
    pictures: Positional[Path]
    """Folder of the board's pictures, with its subfolders."""
    out: Path
    """`salicon`: a new folder; `mit`: a new HDF5 file (.h5, .hdf5)."""
    board: Literal["salicon", "mit"]
    """`salicon`: an 8-bit PNG of 480 x 640 for each picture, named as it; `mit`: HDF5 of
    log-densities at each picture's size, which pysaliency reads (MIT300, CAT2000)."""
    flip: bool = False
    """Average each map with that of the mirrored picture."""
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)


def run(command: ExportBoardCommand) -> None:
    """Predicts all pictures and writes the file or folder, whole or not at all."""
    names = find_pictures(command.pictures)
    out = command.out.absolute()
    if out.exists():
        raise ValueError(f"{out} exists; name a new {_what(command.board)}")
    if command.board == "mit" and out.suffix.lower() not in HDF5:
        raise ValueError(f"{out} must end in {' or '.join(HDF5[:2])}: the board takes HDF5")
    model = mlflow_registry.load(command.model, tracking_uri=command.tracking.uri)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        made = Path(scratch) / out.name
        predictions = _predict(model, command.pictures, names, command.flip)
        if command.board == "salicon":
            made.mkdir()
            for name, prediction in predictions:
                write_salicon(made / Path(name).with_suffix(".png"), prediction)
        else:
            with h5py.File(made, "w") as file:
                for name, prediction in predictions:
                    file.create_dataset(name, data=log_density(prediction), compression=9)
        shutil.move(made, out)
    print(f"{len(names)} maps in {out}")


def find_pictures(folder: Path) -> list[str]:
    """The pictures in a folder and its subfolders, relative to it, sorted.

    Raises ValueError when there is none, or when two would have one name as PNGs.
    """
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES
    )
    if not names:
        raise ValueError(f"{folder} holds no pictures ({', '.join(PICTURES)})")
    known: dict[str, str] = {}
    for name in names:
        stem = str(Path(name).with_suffix(""))
        if stem in known:
            raise ValueError(f"{folder}: {known[stem]} and {name} would share one name")
        known[stem] = name
    return names


def _predict(
    model: Package, folder: Path, names: list[str], flip: bool
) -> Iterator[tuple[str, Prediction]]:
    with progress_bar(len(names), "predict", "image") as bar:
        for name in names:
            yield name, model.predict(read_picture(folder / name), flip)
            bar.update()


def log_density(prediction: Prediction) -> NDArray[np.float32]:
    """(H, W) natural log, whose exp sums to 1 within float32."""
    exact = log_softmax(torch.from_numpy(prediction.log_density)[None, None].double())
    values: NDArray[np.float32] = exact[0, 0].float().numpy()
    return values


def write_salicon(path: Path, prediction: Prediction) -> None:
    """The map as an 8-bit PNG of 480 x 640, min-max to 0..255."""
    picture = prediction.picture()
    if picture.shape != SALICON_SIZE:
        saliency = torch.from_numpy(prediction.saliency)[None, None]
        small = resize(saliency, SALICON_SIZE)[0, 0].numpy()
        picture = replace(prediction, saliency=small).picture()
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def _what(board: str) -> str:
    return "folder" if board == "salicon" else "file"
