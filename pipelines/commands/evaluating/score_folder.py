"""`python -m pipelines score`: score maps of any model from files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from pipelines.commands.evaluating.scoring import ScoringCommand
from pipelines.evaluation.score_maps import MapFiles, MapKind
from pipelines.evaluation.score_table import ScoreTable


@dataclass(frozen=True, kw_only=True)
class ScoreCommand(ScoringCommand):
    """Score maps of any model: PNG, JPEG, BMP, TIFF, .npy or .mat in a folder, or an HDF5 file."""

    maps: Positional[Path]
    """Folder of maps named as the pictures, with or without `_smap`; or HDF5 of log-densities."""
    kind: MapKind | None = None
    """Kind of values; default: log-density in HDF5, else saliency."""
    resize: bool = False
    """Resize maps whose size is not their picture's; without it they are an error."""


def run(command: ScoreCommand) -> ScoreTable:
    """Score a folder of maps."""
    with command.open_data() as reader:
        source = MapFiles.find(command.maps, reader.keys, command.kind, command.resize)
        scores = command.score(source, str(command.maps), reader, notes=source.notes)
        command.report(scores, source, str(command.maps), reader)
    return scores
