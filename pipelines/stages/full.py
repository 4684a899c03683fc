"""The stages in order: shards, encoders, decoder, scores, registry."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from emlnet.inference import package
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import encoder_names
from emlnet.registry import mlflow_registry
from pipelines.config.options import FullCommand, flatten
from pipelines.evaluation import evaluate, score_table
from pipelines.evaluation.compare import METRIC
from pipelines.evaluation.html_report import REPORT, write_report
from pipelines.evaluation.sources import MODEL, ModelSource
from pipelines.ray_cluster import connection, sizing
from pipelines.registry import publish
from pipelines.stages import packing, stage
from pipelines.stages.decoder_stage import decoder_stage
from pipelines.stages.encoder_stage import encoder_stage
from pipelines.stages.frozen_encoders import cache_folder, open_encoders
from pipelines.tracking import run_folder
from pipelines.tracking.mlflow_runs import Tracker
from pipelines.tracking.provenance import data_tags
from shards.files.manifest import Manifest
from shards.files.store import location
from shards.read.order import check_mix
from shards.read.reader import ShardReader

SCORES = score_table.JSON
SECONDS_FOR_MLFLOW = 120
"""How long a server that is away at the end is waited for."""


def run(command: FullCommand) -> dict[str, Any]:
    """Runs all stages and returns the report that scores.json holds.

    What was done before in the same folder is found there and not done again.
    """
    began = time.monotonic()
    sources = [location(source) for source in command.data]
    identity = {
        "command": "full",
        "source": " ".join(map(str, sources)),
        "data": "+".join(map(packing.fingerprint, sources)),
    }
    name = "+".join(Path(source).name for source in sources)
    folder = stage.open_folder(command, f"full-{name}", identity)
    if (folder / SCORES).is_file():
        print(f"done before, in {folder}")
        report: dict[str, Any] = json.loads((folder / SCORES).read_text())
        say(report)
        return report
    seconds: dict[str, float] = {}
    connection.connect(command.compute)
    with timed(seconds, "shards"):
        data, *joined = packing.pack_all(sources, folder)
    manifest = Manifest.join([Manifest.load(each) for each in (data, *joined)])
    tracker = Tracker.open(command.tracking.uri, command.tracking.experiment or manifest.name)
    check(command)
    place = stage.Place.over((data, *joined), folder, manifest, tracker, command.compute)
    with tracker.run(
        folder,
        f"{command.preset or 'full'} {time.strftime('%Y-%m-%d %H:%M', time.gmtime())}",
        params=flatten(command),
        tags={
            **data_tags("full", manifest),
            "backbone": "+".join(command.backbones),
            "seed": str(command.seed),
        },
        data=(data, manifest),
    ) as run_id:
        print(f"MLflow run {run_id} in {command.tracking.uri}", flush=True)
        place = replace(place, parent=run_id)
        stages, results = train(command, place, seconds)
        results = send(stages, results)
        reader = ShardReader(data, "val")
        answering = ModelSource(
            model=package.load(results[-1].package).model, flip=command.flip_scores
        )
        with timed(seconds, "scores"):
            scores = score(place, answering, results)
            means = score_table.means(scores.estimates())
        best = best_row(means, results)
        published = publish.publish(
            best.package,
            tracker,
            best.run_id,
            scores.only(best.name),
            reader,
            command.flip_scores,
        )
        seconds["all"] = time.monotonic() - began
        report = {
            **scores.as_json(),
            "seconds": seconds,
            "best": best.name,
            "package": str(best.package),
            "run_id": run_id,
            "version": published.version,
            "promotion": published.reason,
        }
        score_table.write_parquet(folder / score_table.PARQUET, scores)
        run_folder.write_json(folder / SCORES, report)
        title = f"Scores of {folder.name} on {reader.manifest.name}/val"
        write_report(folder / REPORT, scores, title, answering, reader)
        for file in (score_table.PARQUET, SCORES, REPORT):
            tracker.file(run_id, folder / file)
        tracker.metrics(run_id, score_table.as_metrics(means[best.name]))
        tracker.describe(run_id, describe(report, manifest))
    say(report)
    return report


def train(
    command: FullCommand, place: stage.Place, seconds: dict[str, float]
) -> tuple[list[stage.Stage], list[run_folder.StageResult]]:
    """The encoders, then the decoder on their readouts; what was done, and what came out.

    Encoders run at the same time as far as the cluster has room, else in turn.
    """
    names = encoder_names(command.backbones)
    room = sizing.plan_concurrency(place.compute, len(names))
    print(f"encoders: {room.reason}", flush=True)
    shared = replace(place, compute=room.compute)
    stages = [
        encoder_stage(
            shared,
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
    results = (
        side_by_side(stages, room.num_stages)
        if room.num_stages > 1
        else [each.run() for each in stages]
    )
    seconds |= {result.name: result.seconds for result in results}
    with timed(seconds, "readouts"):
        packages = [result.package for result in results]
        caches = cache_folder(command.readouts, place.folder)
        decoder = decoder_stage(
            place,
            open_encoders(packages, place.manifest, caches),
            DecoderConfig(readout=command.readout),
            command.decoder_plan,
            command.seed,
            mix=command.mix,
        )
    results.append(decoder.run())
    seconds[decoder.name] = results[-1].seconds
    return [*stages, decoder], results


def side_by_side(stages: Sequence[stage.Stage], at_once: int) -> list[run_folder.StageResult]:
    """What all stages give, so many of them running at the same time."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(stage.Stage.run, stages))


def send(
    stages: Sequence[stage.Stage], results: Sequence[run_folder.StageResult]
) -> list[run_folder.StageResult]:
    """The results, once MLflow has all that came out of the stages.

    Raises RuntimeError that names what it has not, when no server answers for a while.
    """
    tracker = stages[0].place.tracker
    if not all(each.is_sent for each in stages):
        tracker.wait(SECONDS_FOR_MLFLOW)
    sent = [each.send(result) for each, result in zip(stages, results, strict=True)]
    kept = [each.name for each in stages if not each.is_sent]
    if kept:
        raise RuntimeError(
            f"MLflow at {tracker.uri} does not answer: {', '.join(kept)} could not be sent. They "
            f"are trained and kept in {stages[0].place.folder}; the same command sends them later"
        )
    return sent


def score(
    place: stage.Place, model: ModelSource, results: Sequence[run_folder.StageResult]
) -> score_table.Table:
    """Scores the decoder's model, its encoders and baselines on val, in an MLflow run of its own.

    Each stage's run gets its own row, as `scores/<metric>`, so that all can be sorted by one.
    """
    folder, tracker = place.folder / "evaluation", place.tracker
    reader = ShardReader(place.data, "val")
    manifest = reader.manifest
    folder.mkdir(exist_ok=True)
    with tracker.run(
        folder,
        "evaluation val",
        params={"split": "val", "flip": model.flip, "model": results[-1].run_id},
        tags=data_tags("evaluation", manifest),
        parent=place.parent,
        data=(place.data, manifest),
    ) as run_id:
        scores = evaluate.evaluate(
            [model],
            reader,
            title=f"scores of {results[-1].name}",
            use_gpu=place.compute.use_gpu,
            about={"flip": model.flip},
        ).renamed(MODEL, results[-1].name)
        means = score_table.means(scores.estimates())
        for result in results:
            tracker.metrics(result.run_id, score_table.as_metrics(means[result.name]))
        tracker.metrics(run_id, score_table.as_metrics(means[results[-1].name]))
        score_table.write_parquet(folder / score_table.PARQUET, scores)
        tracker.file(run_id, folder / score_table.PARQUET)
        how = ", each map averaged with the mirrored picture's" if model.flip else ""
        tracker.describe(
            run_id,
            f"{len(results)} models and baselines on the {len(scores.of(results[-1].name))} "
            f"pictures of {manifest.name}/val{how}.\n\n{score_table.markdown(means)}",
        )
    return scores


def check(command: FullCommand) -> None:
    """Raises ValueError for what would stop a later stage, before the first one trains."""
    for plan in (command.plan, command.decoder_plan):
        sizing.check_batch(plan.batch_size, command.compute)
    if command.mix:
        check_mix(command.data, command.mix)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes how many seconds the body took."""
    began = time.monotonic()
    yield
    seconds[name] = time.monotonic() - began


def say(report: dict[str, Any]) -> None:
    """Prints what came out."""
    print(f"\n{score_table.text(report['scores'])}\n")
    version = f"models:/{mlflow_registry.NAME}/{report['version']}"
    print(f"best: {report['best']}; {version}, {report['promotion']}")
    times = ", ".join(f"{name} {value:.0f}" for name, value in report["seconds"].items())
    print(f"seconds: {times}", flush=True)


def best_row(
    scores: score_table.Means, results: Sequence[run_folder.StageResult]
) -> run_folder.StageResult:
    """The trained model with the best score, the first of equals."""
    sign = -1 if score_table.lower_is_better(METRIC) else 1
    return max(results, key=lambda result: sign * scores[result.name][METRIC])


def describe(report: dict[str, Any], manifest: Manifest) -> str:
    """What came out, in words and a table, for the MLflow run."""
    counts = ", ".join(f"{len(split.samples)} {name}" for name, split in manifest.splits.items())
    times = ", ".join(f"{name} {value:.0f} s" for name, value in report["seconds"].items())
    minutes = report["seconds"]["all"] / 60
    return (
        f"Trained on **{manifest.name}** ({counts} pictures) in {minutes:.0f} minutes. "
        f"Best on val: **{report['best']}**, registered as version {report['version']}: "
        f"{report['promotion']}.\n\n{score_table.markdown(report['scores'])}\n\nTime: {times}."
    )
