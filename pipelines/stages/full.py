"""The whole pipeline: pack, finetune encoders, join them by a decoder, score, publish."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import encoder_names
from emlnet.public_url import public_url
from pipelines.config.identity import flatten
from pipelines.config.options import FullCommand
from pipelines.evaluation import score_table
from pipelines.ray_cluster import check_nodes, connection, sizing
from pipelines.registry.publish import publish
from pipelines.stages import full_report, packing
from pipelines.stages.decoder_stage import decoder_stage
from pipelines.stages.encoder_stage import encoder_stage
from pipelines.stages.frozen_encoders import cache_folder, open_encoders
from pipelines.stages.run_context import RunContext, identify, open_run_folder
from pipelines.stages.score_stage import pick_best, score
from pipelines.stages.stage import Stage
from pipelines.tracking import run_folder
from pipelines.tracking.mlflow_runs import Tracker
from pipelines.tracking.provenance import data_tags
from shards.files.manifest import Manifest
from shards.files.store import location
from shards.read.order import check_mix
from shards.read.reader import ShardReader

DONE = "done.json"
"""Written last, when MLflow has everything."""
SECONDS_FOR_MLFLOW = 120
"""How long to wait at the end for a server that does not answer."""


def run(command: FullCommand) -> dict[str, Any]:
    """Run all stages and return the report that scores.json holds.

    What an earlier attempt did in the same folder is found there and not done again.
    """
    began, seconds = time.monotonic(), dict[str, float]()
    sources = [location(source) for source in command.data]
    folder = open_folder(command, sources)
    if (folder / DONE).is_file():
        print(f"done before, in {folder}")
        known: dict[str, Any] = json.loads((folder / score_table.JSON).read_text())
        full_report.print_summary(known)
        return known
    connection.connect(command.compute)
    check(command)
    with timed(seconds, "shards"):
        data = packing.pack_all(sources, folder)
    with open_context(command, folder, data) as context:
        encoders, trained = finetune(command, context)
        with timed(seconds, "readouts"):
            decoder = join(command, context, trained)
        results = send([*encoders, decoder], [*trained, decoder.run()])
        with timed(seconds, "scores"):
            scores = score(context, results, command.flip_scores)
        best = pick_best(scores, results)
        published = publish(
            best.package,
            context.tracker,
            best.run_id,
            scores.only(best.name),
            ShardReader(data[0], "val"),
            command.flip_scores,
        )
        seconds |= {result.name: result.seconds for result in results}
        seconds["all"] = time.monotonic() - began
        report = full_report.write_report_files(context, scores, best, published, seconds)
    run_folder.write_json(folder / DONE, {"run_id": context.parent})
    full_report.print_summary(report)
    return report


def open_folder(command: FullCommand, sources: Sequence[Path | str]) -> Path:
    """Make or find the run's folder, absolute."""
    name = "+".join(Path(public_url(source)).name for source in sources)
    identity = identify(
        command,
        command.weights,
        command="full",
        source=" ".join(map(public_url, sources)),
        data="+".join(map(packing.fingerprint, sources)),
    )
    return open_run_folder(command.tracking.out, f"full-{name}", identity)


def check(command: FullCommand) -> None:
    """Raise ValueError for what would stop a later stage, before the first one trains."""
    for plan in (command.plan, command.decoder_plan):
        sizing.check_batch(plan.batch_size, command.compute)
    if command.mix:
        check_mix(command.data, command.mix)


@contextmanager
def open_context(
    command: FullCommand, folder: Path, data: tuple[Path | str, ...]
) -> Iterator[RunContext]:
    """Open the parent MLflow run; what the stages share."""
    check_nodes.check(data, folder, command.compute.storage_folder)
    manifest = Manifest.join([Manifest.load(each) for each in data])
    tracker = Tracker.open(command.tracking.uri, command.tracking.experiment or manifest.name)
    with tracker.run(
        folder,
        f"{command.preset or 'full'} {time.strftime('%Y-%m-%d %H:%M', time.gmtime())}",
        params=flatten(command),
        tags={
            **data_tags("full", manifest),
            "backbone": "+".join(command.backbones),
            "seed": str(command.seed),
        },
        data=(data[0], manifest),
    ) as run_id:
        print(f"MLflow run {run_id} in {public_url(command.tracking.uri)}", flush=True)
        yield RunContext(
            folder=folder,
            data=data,
            manifest=manifest,
            tracker=tracker,
            compute=command.compute,
            parent=run_id,
        )


def finetune(
    command: FullCommand, context: RunContext
) -> tuple[list[Stage], list[run_folder.StageResult]]:
    """Finetune the encoders, as many at the same time as the cluster has room for."""
    names = encoder_names(command.backbones)
    concurrency = sizing.plan_concurrency(context.compute, len(names))
    print(f"encoders: {concurrency.reason}", flush=True)
    stages = [
        encoder_stage(
            replace(context, compute=concurrency.compute),
            name,
            f"encoder-{number}-{config.backbone.replace(':', '-')}",
            config,
            command.plan,
            command.seed + number,
            command.finetune,
            command.mix,
        )
        for number, (name, config) in enumerate(zip(names, command.encoders(), strict=True))
    ]
    if concurrency.num_stages == 1:  # In this thread, which a second Ctrl-C interrupts.
        return stages, [stage.run() for stage in stages]
    with ThreadPoolExecutor(concurrency.num_stages) as pool:
        return stages, list(pool.map(Stage.run, stages))


def join(
    command: FullCommand, context: RunContext, encoders: Sequence[run_folder.StageResult]
) -> Stage:
    """Compute the encoders' readouts; return the stage that trains a decoder on them."""
    packages = [encoder.package for encoder in encoders]
    caches = cache_folder(command.readouts, context.folder)
    return decoder_stage(
        context,
        open_encoders(packages, context.manifest, caches),
        DecoderConfig(readout=command.readout),
        command.decoder_plan,
        command.seed,
        mix=command.mix,
    )


def send(
    stages: Sequence[Stage], results: Sequence[run_folder.StageResult]
) -> list[run_folder.StageResult]:
    """Return the results, once MLflow has everything that the stages gave.

    Raises RuntimeError that names what MLflow lacks, when no server answers for a while.
    """
    tracker, folder = stages[0].context.tracker, stages[0].context.folder
    if not all(stage.is_sent for stage in stages):
        tracker.wait(SECONDS_FOR_MLFLOW)
    sent = [stage.send(result) for stage, result in zip(stages, results, strict=True)]
    kept = [stage.name for stage in stages if not stage.is_sent]
    if kept:
        raise RuntimeError(
            f"MLflow at {public_url(tracker.uri)} does not answer: {', '.join(kept)} could not be "
            f"sent. They are trained and kept in {folder}; the same command sends them later"
        )
    return sent


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how many seconds the body took."""
    began = time.monotonic()
    yield
    seconds[name] = time.monotonic() - began
