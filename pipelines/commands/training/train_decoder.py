"""`python -m pipelines decoder`: join all encoders, or the best subset, by a decoder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from tyro.conf import OmitArgPrefixes

from emlnet.models.decoder import DecoderConfig
from emlnet.training.state import Plan
from pipelines.config.options import DECODER_PLAN, TrainingCommand
from pipelines.stages import select_encoders
from pipelines.stages.decoder_stage import decoder_stage
from pipelines.stages.frozen_encoders import cache_folder, find_packages, open_encoders
from pipelines.stages.run_context import start_run
from pipelines.stages.stage import print_result
from pipelines.tracking.best_encoders import number_of_best, resolve_best
from pipelines.tracking.run_folder import StageResult
from shards.files.manifest import Manifest
from shards.files.store import location


@dataclass(frozen=True, kw_only=True)
class DecoderCommand(TrainingCommand):
    """Train a decoder on any number of encoders: an MLflow run with the packaged model."""

    common_flags: ClassVar[tuple[str, ...]] = (
        "data", "encoders", "select_encoders", "readouts", "epochs", "batch_size", "lr",
        "loss_weights", "num_workers", "use_gpu", "seed", "out", "tracking_uri",
    )  # fmt: skip
    encoders: tuple[str, ...]
    """Encoders to join: MLflow runs, folders, or model URIs, which stand for all encoders of a
    model.  `best`: the best run of each backbone on this data set; `best:3`: those three of them
    that are best together.  The decoder may learn from pictures that the encoders were trained on,
    where they are overconfident; `full --folds` avoids this."""
    select_encoders: bool = False
    """Try subsets of the encoders (all, or greedily for more than four encoders), show a table, and
    keep the best subset."""
    readouts: Path | None = None
    """Folder of cached readouts, shared by all decoders; default: readouts/ beside
    the run's folder."""
    decoder: OmitArgPrefixes[DecoderConfig] = field(default_factory=DecoderConfig)
    plan: OmitArgPrefixes[Plan] = DECODER_PLAN


def run(command: DecoderCommand) -> StageResult:
    """Train a decoder, or resume."""
    num_best, uri = number_of_best(command.encoders), command.tracking.uri
    data = Manifest.join([Manifest.load(location(folder)) for folder in command.data]).digest
    names = resolve_best(command.encoders, uri, data, command.plan.select)
    context = start_run(replace(command, encoders=names), "decoder", "+".join(names))
    packages = find_packages(names, uri, context.folder)
    caches = cache_folder(command.readouts, context.folder)
    encoders = open_encoders(packages, context.manifest, caches)
    stage = decoder_stage(context, command, command.plan, command.decoder, encoders)
    if command.select_encoders or num_best:
        best, notes = select_encoders.select_encoders(stage, num_best)
        print(f"\n{notes}\n", flush=True)
        encoders = [encoders[member] for member in best]
        stage = decoder_stage(context, command, command.plan, command.decoder, encoders, notes)
        stage = replace(stage, artifacts=(context.folder / select_encoders.FILE,))
    result = stage.run()
    print_result(result)
    return result
