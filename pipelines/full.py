"""The stages in order: shards, encoders, decoder, scores, registry."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from emlnet import package, registry
from emlnet.decoder import DecoderConfig
from emlnet.fit import better
from emlnet.model import encoder_names
from pipelines import evaluation, publish, runs, stage, trainer
from pipelines.config import FullCommand, flatten
from pipelines.decoder import decoder_stage
from pipelines.encoders import encoder_stage
from pipelines.tracking import Tracker
from shards.manifest import MANIFEST, Manifest
from shards.reader import ShardReader
from shards.writer import build


def full(command: FullCommand) -> runs.StageResult:
    """Runs all stages; what was done before in the same folder is not done again."""
    began = time.monotonic()
    source = command.data.absolute()
    identity = {"command": "full", "source": str(source)}
    folder = stage.open_folder(command, f"full-{source.name}", identity)
    data, packed = pack(source, folder / "shards")
    manifest = Manifest.load(data)
    tracker = Tracker.open(command.tracking.uri, command.tracking.experiment or manifest.name)
    trainer.connect(command.compute)
    seconds: dict[str, float] = {"shards": packed}
    with tracker.run(
        folder, folder.name, params=flatten(command), tags=stage.tags("full", manifest)
    ) as run_id:
        print(f"MLflow run {run_id} in {command.tracking.uri}", flush=True)
        results = []
        names = encoder_names(command.backbones)
        for number, config in enumerate(command.encoders()):
            training = encoder_stage(
                names[number],
                data,
                config,
                command.plan,
                command.seed + number,
                command.compute.loader_workers,
                folder / f"encoder-{number}-{config.backbone.replace(':', '-')}",
                manifest,
                run_id,
            )
            results.append(training.run(tracker, command.compute))
            seconds[training.name] = results[-1].seconds
        decoder = decoder_stage(
            data,
            [result.package for result in results],
            DecoderConfig(readout=command.readout),
            command.decoder_plan,
            command.seed,
            folder / "decoder",
            folder / "readouts",
            manifest,
            command.compute.use_gpu,
            parent=run_id,
        )
        results.append(decoder.run(tracker, command.compute))
        seconds[decoder.name] = results[-1].seconds
        reader, at = ShardReader(data, "val"), time.monotonic()
        model = package.load(results[-1].package).model
        scores = evaluation.evaluate(
            model, reader, command.flip_scores, command.compute.use_gpu, name="decoder"
        )
        seconds["scores"] = time.monotonic() - at
        best = best_row(scores, results)
        print(f"\n{evaluation.table(scores)}\n", flush=True)
        published = publish.publish(
            best.package, tracker, best.run_id, scores[best.name], reader, command.flip_scores
        )
        seconds["all"] = time.monotonic() - began
        report = evaluation.as_json(
            scores,
            split="val",
            flip=command.flip_scores,
            data_digest=manifest.digest,
            seconds=seconds,
            best=best.name,
            version=published.version,
            promotion=published.reason,
        )
        runs.write_json(folder / "scores.json", report)
        tracker.file(run_id, folder / "scores.json")
        tracker.metrics(run_id, {f"val_{k}": v for k, v in scores[best.name].items()})
        tracker.describe(run_id, _describe(scores, best, published, seconds))
    print(f"best: {best.name}; version {published.version} of {registry.NAME}, {published.reason}")
    print("seconds: " + ", ".join(f"{k} {v:.0f}" for k, v in seconds.items()), flush=True)
    return best


def pack(source: Path, out: Path) -> tuple[Path, float]:
    """A folder of shards as it is, or a raw one packed into `out`; and the seconds it took."""
    began = time.monotonic()
    if (source / MANIFEST).is_file():
        return source, 0.0
    print(f"shards: packing {source}", flush=True)
    build(source, out)
    return out, time.monotonic() - began


def best_row(scores: evaluation.Scores, results: Sequence[runs.StageResult]) -> runs.StageResult:
    """The trained model with the best score."""
    best = results[0]
    for result in results[1:]:
        if better(scores[result.name], scores[best.name], publish.METRIC):
            best = result
    return best


def _describe(
    scores: evaluation.Scores,
    best: runs.StageResult,
    published: publish.Published,
    seconds: Mapping[str, float],
) -> str:
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    return (
        f"Best on val: **{best.name}**, version {published.version} ({published.reason}).\n\n"
        f"{evaluation.markdown(scores)}\n\nTime: {times}."
    )
