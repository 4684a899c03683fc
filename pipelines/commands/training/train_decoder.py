"""The commands over frozen encoders: `readouts` and `decoder`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.config.options import DecoderCommand, ReadoutsCommand
from pipelines.ray_cluster import check_nodes, connection
from pipelines.stages import readout_cache, select_encoders
from pipelines.stages.decoder_stage import decoder_job, decoder_stage
from pipelines.stages.frozen_encoders import (
    FrozenEncoder,
    cache_folder,
    compute_readouts,
    find_packages,
    open_encoders,
)
from pipelines.stages.run_context import RunContext, open_context
from pipelines.stages.stage import print_result
from pipelines.tracking import best_encoders, run_folder
from shards.files.manifest import Manifest
from shards.files.store import location


def run(command: DecoderCommand) -> run_folder.StageResult:
    """Trains a decoder on encoders of any runs, or on the subset of them that does best."""
    size = best_encoders.number_of_best(command.encoders)
    command = replace(command, encoders=_names(command))
    context = open_context(command, "decoder", "+".join(command.encoders))
    packages = find_packages(command.encoders, command.tracking.uri, context.folder)
    caches = cache_folder(command.readouts, context.folder)
    encoders = open_encoders(packages, context.manifest, caches)
    notes = ""
    if command.select_encoders or size:
        encoders, notes = _select(command, context, encoders, size)
    stage = decoder_stage(
        context, encoders, command.decoder, command.plan, command.seed, notes, command.mix
    )
    if notes:
        stage = replace(stage, artifacts=(context.folder / select_encoders.FILE,))
    result = stage.run()
    print_result(result)
    return result


def _names(command: DecoderCommand | ReadoutsCommand) -> tuple[str, ...]:
    """The encoders that a command names; of `best`, those that the MLflow store holds."""
    if not best_encoders.is_best(command.encoders):
        return command.encoders
    digest = Manifest.join([Manifest.load(location(data)) for data in command.data]).digest
    metric = command.plan.select if isinstance(command, DecoderCommand) else "kl"
    found = tuple(best_encoders.best_encoders(command.tracking.uri, digest, metric))
    wanted = best_encoders.number_of_best(command.encoders)
    if wanted > len(found):
        raise ValueError(f"best:{wanted} of {len(found)} backbones; train more, or ask for less")
    return found


def _select(
    command: DecoderCommand, context: RunContext, encoders: Sequence[FrozenEncoder], size: int
) -> tuple[list[FrozenEncoder], str]:
    """The subset that does best, and the table of all that were tried, as Markdown."""
    compute_readouts(context, encoders)
    job = decoder_job(context, encoders, command.decoder, command.plan, command.seed, command.mix)
    chosen = select_encoders.select_encoders(context, encoders, job, size)
    print(f"\n{chosen.markdown()}\n", flush=True)
    return [encoders[member] for member in chosen.best], chosen.markdown()


def compute(command: ReadoutsCommand) -> None:
    """Computes readouts of encoders, for decoders to come."""
    if best_encoders.number_of_best(command.encoders):
        raise ValueError(
            f"{command.encoders[0]} is a choice by decoders, which `decoder` makes; readouts are "
            "of `best`, the best encoder of each backbone"
        )
    data = [location(folder) for folder in command.data]
    manifest = Manifest.join([Manifest.load(folder) for folder in data])
    caches = cache_folder(command.readouts, Path("runs/any").absolute())
    connection.connect(command.compute)
    check_nodes.check(data, caches)
    with tempfile.TemporaryDirectory() as scratch:
        packages = find_packages(_names(command), command.tracking.uri, Path(scratch))
        for each in open_encoders(packages, manifest, caches):
            use_gpu = command.compute.use_gpu
            readout_cache.build(each.cache, data, command.splits, each.encoder, use_gpu)
