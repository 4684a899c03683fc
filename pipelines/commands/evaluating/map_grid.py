"""`python -m pipelines grid`: what a model and each of its encoders say of pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tyro.conf import OmitArgPrefixes

from emlnet.data.images import read_picture
from emlnet.data.maps import to_density
from emlnet.inference import package
from emlnet.inference.predictor import to_tensor
from emlnet.models.eml_net import EMLNet, encoder_names
from emlnet.models.encoder import Encoder
from emlnet.registry import mlflow_registry
from pipelines.config.options import StoreOptions
from pipelines.tracking import figures
from shards.read.reader import ShardReader

Picture = tuple[str, NDArray[np.uint8], Tensor | None]
"""A name, a photograph (H, W, 3) uint8, and where people looked, (1, 1, H, W), if it is known."""


@dataclass(frozen=True, kw_only=True)
class GridCommand:
    """Draw pictures in rows: photograph, ground truth, the model, each of its encoders."""

    model: str
    """Folder of a model, models:/emlnet@ALIAS, models:/emlnet/VERSION or runs:/RUN_ID."""
    pictures: tuple[Path, ...] = ()
    """Picture files; or --data."""
    data: Path | None = None
    """Folder of shards to choose pictures from, evenly."""
    split: str = "val"
    """Split of the shards."""
    num: int = 6
    """Pictures to choose."""
    out: Path = Path("grid.png")
    """PNG file to write."""
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        if bool(self.pictures) == (self.data is not None):
            raise ValueError("name --pictures, or shards with --data")


def run(command: GridCommand) -> None:
    """Draws the grid."""
    with tempfile.TemporaryDirectory() as scratch:
        uri = mlflow_registry.resolve(command.model, command.tracking.uri, Path(scratch) / "model")
        model = package.load(uri).model
    if command.data is None:
        pictures = [(path.stem, read_picture(path), None) for path in command.pictures]
        drawn = draw(model, pictures)
    else:
        reader = ShardReader(command.data.absolute(), command.split)
        drawn = draw(model, list(of_split(reader, command.num)))
    command.out.parent.mkdir(parents=True, exist_ok=True)
    drawn.save(command.out)
    print(command.out)


def of_split(reader: ShardReader, num: int) -> Iterator[Picture]:
    """Pictures of a split, evenly chosen, with where people looked."""
    for example in figures.examples(reader, num, lambda position, sample: ()):
        truth = torch.from_numpy(example.truth.copy())[None, None].float()
        yield example.key, example.photograph, truth


@torch.inference_mode()
def draw(model: Encoder | EMLNet, pictures: Sequence[Picture]) -> Image.Image:
    """Rows of photograph, ground truth where it is known, and maps min-max in inferno colours."""
    rows = []
    for name, photograph, truth in pictures:
        maps = [] if truth is None else [truth]
        maps += answers(model, to_tensor(photograph)[None])
        rows.append((name, figures.cells(photograph, maps)))
    titles = ["photograph"]
    titles += ["ground truth"] if any(truth is not None for _, _, truth in pictures) else []
    titles += ["decoder"] if isinstance(model, EMLNet) else []
    encoders = [model] if isinstance(model, Encoder) else model.encoder_list
    titles += encoder_names([encoder.config.backbone for encoder in encoders])
    return figures.tile(rows, titles)


def answers(model: Encoder | EMLNet, image: Tensor) -> list[Tensor]:
    """The densities (1, 1, H, W) of a model and of each of its encoders, for (1, 3, H, W)."""
    if isinstance(model, Encoder):
        return [to_density(model(image), model.kind)]
    size = (image.shape[-2], image.shape[-1])
    readouts = model.readouts(image)
    outputs = [(model.decode(readouts, size), model.kind), *model.encoder_maps(readouts, size)]
    return [to_density(*output) for output in outputs]
