"""`python -m pipelines grid`: maps of a model and of each of its encoders, beside pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from tyro.conf import OmitArgPrefixes

from emlnet.data.images import read_picture
from emlnet.data.maps import to_density
from emlnet.inference.predictor import to_tensor
from emlnet.public_url import public_url
from emlnet.registry import model_sources
from pipelines.config.options import StoreOptions
from pipelines.evaluation.sources import ModelSource
from pipelines.tracking import figures
from shards.read.reader import ShardReader


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


@torch.inference_mode()
def run(command: GridCommand) -> None:
    """Draw the grid, and print its file."""
    model = model_sources.load(command.model, tracking_uri=command.tracking.uri).model
    source, columns = ModelSource(model=model), ["photograph"]
    if command.data is None:
        rows = [(path.name, [read_picture(path)]) for path in command.pictures]
    else:
        reader = ShardReader(command.data.absolute(), command.split)
        samples = figures.examples(reader, command.num, lambda position, sample: ())
        rows = [(sample.key, [sample.image, sample.density]) for sample, _ in samples]
        columns.append("ground truth")
    names: list[str] = []
    for _, pictures in rows:
        maps = source.outputs(to_tensor(pictures[0])[None])
        drawn = {name: to_density(output, kind)[0, 0].numpy() for name, output, kind in maps}
        names = list(drawn)
        pictures += drawn.values()
    command.out.parent.mkdir(parents=True, exist_ok=True)
    figures.grid(rows, [*columns, *names], f"maps of {public_url(command.model)}").savefig(
        command.out
    )
    print(command.out)
