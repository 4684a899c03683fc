"""`python -m pipelines export-board`: predictions in the format of a public benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tyro.conf import OmitArgPrefixes, Positional

from emlnet.atomic_files import replace_file, replace_folder
from emlnet.data.images import read_picture
from emlnet.data.maps import log_softmax, resize
from emlnet.inference.predict_files import find_pictures, print_left_out
from emlnet.inference.predictor import Prediction
from emlnet.registry import model_sources
from pipelines.config.options import StoreOptions
from pipelines.evaluation.score_maps import HDF5
from shards.files.progress import progress_bar

SALICON_SIZE = (480, 640)


@dataclass(frozen=True, kw_only=True)
class ExportBoardCommand:
    """Predict the pictures of a public benchmark and write the maps in its format."""

    model: Positional[str]
    """Folder of a model, models:/emlnet@ALIAS, models:/emlnet/VERSION or runs:/RUN_ID."""
    pictures: Positional[Path]
    """Folder of the benchmark's pictures, with subfolders."""
    out: Path
    """`salicon`: a new folder; `mit`: a new HDF5 file (.h5, .hdf5)."""
    board: Literal["salicon", "mit"]
    """`salicon`: an 8-bit PNG of 480 x 640 for each picture, with its name; `mit`: HDF5 of
    log-densities at each picture's size, which pysaliency reads (MIT300, CAT2000)."""
    flip: bool = False
    """Average each map with that of the mirrored picture."""
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)


def run(command: ExportBoardCommand) -> None:
    """Predict all pictures and write the file or folder atomically."""
    out, is_salicon = command.out.absolute(), command.board == "salicon"
    if out.exists():
        raise ValueError(f"{out} exists; name a new {'folder' if is_salicon else 'file'}")
    if not is_salicon and out.suffix.lower() not in HDF5:
        raise ValueError(f"{out} must end in {' or '.join(HDF5[:2])}: this benchmark needs HDF5")
    found, left_out = find_pictures([str(command.pictures)], out)
    print_left_out(left_out)
    names = [path.relative_to(command.pictures) for path, _ in found]
    model = model_sources.load(command.model, tracking_uri=command.tracking.uri)
    with progress_bar(len(names), "predict", "image") as bar:

        def predict(name: Path) -> Prediction:
            bar.update()
            return model.predict(read_picture(command.pictures / name), command.flip)

        if is_salicon:
            with replace_folder(out) as folder:
                for name in names:
                    path = folder / name.with_suffix(".png")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    salicon_picture(predict(name)).save(path)
        else:
            with replace_file(out) as temporary, h5py.File(temporary, "w") as file:
                for name in names:
                    values = log_density(predict(name))
                    file.create_dataset(name.as_posix(), data=values, compression=9)
    print(f"{len(names)} maps in {out}")


def log_density(prediction: Prediction) -> NDArray[np.float32]:
    """Return the (H, W) natural log-density; its exp sums to 1 in float32."""
    exact = log_softmax(torch.from_numpy(prediction.log_density)[None, None].double())
    values: NDArray[np.float32] = exact[0, 0].float().numpy()
    return values


def salicon_picture(prediction: Prediction) -> Image.Image:
    """Return the map as 8-bit grey, 480 x 640, scaled min-max to 0..255."""
    saliency = resize(torch.from_numpy(prediction.saliency)[None, None], SALICON_SIZE)
    return Image.fromarray(replace(prediction, saliency=saliency[0, 0].numpy()).picture())
