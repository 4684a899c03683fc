"""`python -m pipelines score`: score maps of any model from files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from pipelines.commands.evaluating.scoring import (
    Scoring,
    open_data,
    score_source,
    write_scores,
)
from pipelines.config.options import ClusterOptions
from pipelines.evaluation.score_maps import MapFiles, MapKind
from pipelines.evaluation.score_table import ScoreTable


@dataclass(frozen=True, kw_only=True)
class ScoreCommand:
    """Score maps of any model: PNG, JPEG, BMP, TIFF, .npy or .mat in a folder, or an HDF5 file."""

    maps: Positional[Path]
    """Folder of maps named as the pictures, with or without `_smap`; or HDF5 of log-densities."""
    data: Path
    """Folder of shards, or a raw folder, which is packed for the time being."""
    kind: MapKind | None = None
    """What the values are; default: log-density in HDF5, else saliency."""
    resize: bool = False
    """Resize maps whose size is not their picture's; without it they are an error."""
    scoring: OmitArgPrefixes[Scoring] = field(default_factory=Scoring)
    compute: OmitArgPrefixes[ClusterOptions] = field(default_factory=ClusterOptions)


def run(command: ScoreCommand) -> ScoreTable:
    """Score a folder of maps."""
    with open_data(command.data, command.scoring.split) as reader:
        source = MapFiles.find(command.maps, reader.keys, command.kind, command.resize)
        name = str(command.maps)
        scores = score_source(source, source.name, name, reader, command.scoring, command.compute)
        write_scores(scores, source, reader, command.scoring, name)
    return scores
