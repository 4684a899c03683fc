"""The whole pipeline: pack, finetune encoders, join them by a decoder, score, publish."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from emlnet.inference import package
from emlnet.metrics.saliency_metrics import METRICS
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import encoder_names
from emlnet.public_url import public_url
from pipelines.config.identity import flatten
from pipelines.config.options import FullCommand
from pipelines.evaluation import evaluate, score_table
from pipelines.evaluation.compare import METRIC
from pipelines.evaluation.sources import MODEL, ModelSource
from pipelines.ray_cluster import check_nodes, sizing, tasks
from pipelines.registry.publish import publish
from pipelines.stages import full_report, run_context
from pipelines.stages.decoder_stage import decoder_stage
from pipelines.stages.encoder_stage import encoder_stage
from pipelines.stages.frozen_encoders import cache_folder, open_encoders
from pipelines.stages.run_context import RunContext
from pipelines.stages.stage import Stage
from pipelines.tracking import run_folder
from pipelines.tracking.provenance import data_tags
from pipelines.tracking.run_folder import StageResult
from shards.build.writer import build
from shards.files.manifest import MANIFEST, Manifest
from shards.files.store import location
from shards.layouts.all_layouts import find_samples
from shards.read.folds import Fold, split_in_folds
from shards.read.reader import ShardReader

Trained = tuple[Stage, StageResult]
"""A stage that ran, and its result."""
DONE = "done.json"
"""Written last, when MLflow has everything."""
SECONDS_FOR_MLFLOW = 120
"""Longest wait at the end for a server that does not answer."""


def run(command: FullCommand) -> dict[str, Any]:
    """Run all stages and return the content of scores.json.

    Stages that an earlier attempt finished in the same folder are not repeated.
    """
    began = time.monotonic()
    sources = [location(source) for source in command.data]
    folder = open_folder(command, sources)
    if (folder / DONE).is_file():
        print(f"done before, in {folder}")
        known: dict[str, Any] = json.loads((folder / score_table.JSON).read_text())
        full_report.print_summary(known)
        return known
    run_context.connect_and_check(command, command.decoder_plan.batch_size)
    names = ["shards", *(f"shards-{number}" for number in range(2, len(sources) + 1))]
    data = tuple(map(pack, sources, (folder / name for name in names)))
    with open_parent(command, folder, data) as context:
        encoders = finetune(command, context)
        decoder = join(command, context, encoders)
        trained = send([*chain.from_iterable(encoders), (decoder, decoder.run())])
        results = [result for stage, result in trained if stage.kind != "fold"]
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
        seconds = {result.name: result.seconds for _, result in trained}
        seconds["all"] = time.monotonic() - began
        report = full_report.write_report_files(context, scores, best, published, seconds)
    run_folder.write_json(folder / DONE, {"run_id": context.parent})
    full_report.print_summary(report)
    return report


def open_folder(command: FullCommand, sources: Sequence[Path | str]) -> Path:
    """Make or find the run's folder, absolute."""
    name = "+".join(Path(public_url(source)).name for source in sources)
    identity = run_context.identify(
        command,
        command.weights,
        command="full",
        source=" ".join(map(public_url, sources)),
        data="+".join(map(fingerprint, sources)),
    )
    return run_context.open_run_folder(command.tracking.out, f"full-{name}", identity)


def fingerprint(source: Path | str) -> str:
    """Return a digest that identifies a data set, packed or raw."""
    if is_packed(source):
        return Manifest.load(source).digest
    return find_samples(Path(source)).fingerprint


def is_packed(source: Path | str) -> bool:
    """Whether a data set is a folder or URL of shards."""
    return isinstance(source, str) or (source / MANIFEST).is_file()


def pack(source: Path | str, out: Path) -> Path | str:
    """Pack a raw data set into `out`, one Ray task per shard; return shards as they are."""
    if is_packed(source):
        return source
    check_nodes.check([source], out)
    print(f"shards: packing {public_url(source)}", flush=True)
    build(Path(source), out, map_=tasks.map_unordered)
    return out


@contextmanager
def open_parent(
    command: FullCommand, folder: Path, data: tuple[Path | str, ...]
) -> Iterator[RunContext]:
    """Open the parent MLflow run; yield the context of its stages."""
    context = run_context.open_context(command, folder, data)
    tags = {"backbone": "+".join(command.backbones), "seed": str(command.seed)}
    with context.tracker.run(
        folder,
        f"{command.preset or 'full'} {time.strftime('%Y-%m-%d %H:%M', time.gmtime())}",
        params=flatten(command),
        tags={**data_tags("full", context.manifest), **tags},
        data=(data[0], context.manifest),
    ) as run_id:
        print(f"MLflow run {run_id} in {public_url(command.tracking.uri)}", flush=True)
        yield replace(context, parent=run_id)


def finetune(command: FullCommand, context: RunContext) -> list[list[Trained]]:
    """Finetune the encoders, as many at a time as fit the cluster.

    Returns a list per backbone: first the encoder trained on all pictures, then one encoder per
    fold, trained on all pictures except the fold's.  All have the same seed and starting weights.
    """
    folds: list[Fold | None] = [None]
    if command.folds:
        folds += split_in_folds(ShardReader(context.data, "train"), command.folds)
    names = encoder_names(command.backbones)
    at_once, compute = sizing.plan_concurrency(context.compute, len(names) * len(folds))
    stages = []
    for number, (name, config) in enumerate(zip(names, command.encoders(), strict=True)):
        folder = f"encoder-{number}-{config.backbone.replace(':', '-')}"
        for fold in folds:
            stage = encoder_stage(
                replace(context, compute=compute),
                command,
                f"{name}, {fold} left out" if fold else name,
                f"{folder}-fold-{fold.number + 1}" if fold else folder,
                config,
                command.finetune,
                command.seed + number,
                fold,
            )
            stages.append(stage)
    print(f"encoders: {at_once} of {len(stages)} at a time", flush=True)
    if at_once == 1:  # Without a pool, a second Ctrl-C interrupts the training.
        trained = [(stage, stage.run()) for stage in stages]
    else:
        with ThreadPoolExecutor(at_once) as pool:
            trained = list(zip(stages, pool.map(Stage.run, stages), strict=True))
    return [trained[at : at + len(folds)] for at in range(0, len(stages), len(folds))]


def join(command: FullCommand, context: RunContext, encoders: Sequence[list[Trained]]) -> Stage:
    """Compute the encoders' readouts; return the stage that trains a decoder on them.

    encoders: as `finetune` returns them.
    """
    caches = cache_folder(command.readouts, context.folder)
    frozen = []
    for trained in encoders:
        packages = [result.package for _, result in trained]
        whole, *folds = open_encoders(packages, context.manifest, caches)
        frozen.append(whole.cross_fitted(folds))
    config = DecoderConfig(readout=command.readout)
    return decoder_stage(context, command, command.decoder_plan, config, frozen)


def send(trained: Sequence[Trained]) -> list[Trained]:
    """Send to MLflow the stages that it does not have yet; return the stages and results.

    Raises RuntimeError naming the unsent stages if MLflow still does not answer.
    """
    context = trained[0][0].context
    if not all(stage.is_sent for stage, _ in trained):
        context.tracker.wait(SECONDS_FOR_MLFLOW)
    sent = [(stage, stage.send(result)) for stage, result in trained]
    unsent = [stage.job.title for stage, _ in trained if not stage.is_sent]
    if unsent:
        raise RuntimeError(
            f"MLflow at {public_url(context.tracker.uri)} does not answer: could not send "
            f"{', '.join(unsent)}. They are trained and kept in {context.folder}; run the same "
            "command again to send them"
        )
    return sent


def score(
    context: RunContext, results: Sequence[StageResult], flip: bool
) -> score_table.ScoreTable:
    """Score the decoder's model, its encoders and the baselines on val of the first data set.

    results: encoders, then the decoder.  flip: average each map with the mirrored picture's.
    Each stage's MLflow run gets its scores as metrics `scores/<metric>`.
    """
    decoder = results[-1]
    scores = evaluate.evaluate(
        [ModelSource(model=package.load(decoder.package).model, flip=flip)],
        ShardReader(context.data[0], "val"),
        title=f"scores of {decoder.name}",
        use_gpu=context.compute.use_gpu,
        about={"flip": flip},
    ).renamed(MODEL, decoder.name)
    for result in results:
        metrics = score_table.as_metrics(scores.means[result.name])
        context.tracker.log_metrics(result.run_id, metrics)
    return scores


def pick_best(scores: score_table.ScoreTable, results: Sequence[StageResult]) -> StageResult:
    """Return the trained model with the best mean score; the first wins a tie."""
    sign = METRICS[METRIC].sign
    return max(results, key=lambda result: sign * scores.of(result.name)[METRIC].mean())
