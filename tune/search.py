"""The search over loss weights, from a command to a table and best-weights.json."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path

import ray

from pipelines import runs, stage, trainer
from pipelines.config import digest, flatten, num_cpus
from pipelines.provenance import data_tags
from pipelines.tracking import Tracker
from shards.manifest import Manifest
from shards.reader import ShardReader
from tune import results
from tune.config import LossWeightsCommand, check
from tune.objective import Setting
from tune.space import short
from tune.tuner import make_tuner, num_at_once

# Without Tune's own display and log files: MLflow and the trials' records have all that.
TUNE_ENV = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
UNUSED = ("plan.loss_weights", "plan.select", "retry_failed")
"""Fields of the command that say nothing about a search."""


def loss_weights(command: LossWeightsCommand) -> Path:
    """Searches, or goes on with a search in the same folder; returns the file of the best weights.

    Raises ValueError when every trial failed, with the first cause; KeyboardInterrupt when trials
    were left.
    """
    check(command)
    data = command.data.absolute()
    manifest = Manifest.load(data)
    for split in ("train", "val"):
        ShardReader(data, split)
    folder = open_folder(command, manifest)
    best = folder / results.BEST_WEIGHTS
    if best.is_file() and not command.retry_failed:
        print(f"done before, in {folder}", flush=True)
        say(folder, command)
        return best
    tracker = Tracker.open(command.tracking.uri, command.tracking.experiment or manifest.name)
    trainer.connect(command.compute)
    params = {k: v for k, v in flatten(command).items() if k not in UNUSED}
    tags = {**data_tags("search", manifest), "backbone": command.encoder.backbone}
    with tracker.run(folder, f"search {folder.name}", params=params, tags=tags) as run_id:
        place = stage.Place(
            folder=folder,
            data=data,
            manifest=manifest,
            tracker=tracker,
            compute=command.compute,
            parent=run_id,
        )
        run_trials(command, place)
        finish(command, place, run_id)
    say(folder, command)
    return best


def open_folder(command: LossWeightsCommand, manifest: Manifest) -> Path:
    """The search's own folder, absolute: `--out`, or one under runs/, the same each time."""
    elsewhere = ("tracking", "compute", "data", "retry_failed")
    config = {k: v for k, v in asdict(command).items() if k not in elsewhere}
    identity = {
        "command": "tune loss-weights",
        "data": manifest.digest,
        "config": digest(config=config),
    }
    safe = command.encoder.backbone.replace(":", "-")
    default = Path("runs") / f"tune-{safe}-{digest(**identity)[:8]}"
    return runs.open_folder(command.tracking.out or default, identity)


def run_trials(command: LossWeightsCommand, place: stage.Place) -> None:
    """Runs the trials that are left.

    Raises ValueError when the cluster has no room for one, its workers can't share a batch, or none
    finished, with the first cause; KeyboardInterrupt when it was interrupted.
    """
    scaled = trainer.scaling(command.compute)
    num_workers = scaled.num_workers
    assert isinstance(num_workers, int)
    trainer.check_batch(command.plan.batch_size, num_workers)
    room = num_at_once(num_workers, bool(scaled.use_gpu), ray.available_resources())
    at_once = min(room, command.num_trials)
    setting = Setting(
        place=place,
        space=command.space,
        objective=command.objective,
        encoder=command.encoder,
        plan=command.plan,
        seed=command.seed,
        num_threads=max(1, num_cpus() // (at_once * num_workers)),
    )
    if command.retry_failed:
        results.forget_failed(place.folder)
    ended = len(results.find_records(place.folder))
    print(
        f"{command.num_trials} trials{f', {ended} of them done before' if ended else ''}; "
        f"{at_once} at once, {command.plan.epochs} epoch{'s' * (command.plan.epochs > 1)} each, "
        f"compared by {command.objective} on val; in {place.folder}\n"
        f"MLflow run {place.parent} in {command.tracking.uri}",
        flush=True,
    )
    for name, value in TUNE_ENV.items():
        os.environ.setdefault(name, value)
    # Of a failed trial Tune prints all it knows; that is kept in the tuner's folder.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    grid = make_tuner(command, setting, at_once).fit()
    if grid.num_terminated + grid.num_errors < command.num_trials:
        raise KeyboardInterrupt
    records = results.find_records(place.folder)
    if results.best_record(records, command.objective) is None:
        first = records[0]
        raise ValueError(
            f"all {len(records)} trials failed; the first, {short(first.weights)}: "
            f"{first.cause}. When the cause is gone, --retry-failed runs them again"
        )


def finish(command: LossWeightsCommand, place: stage.Place, run_id: str) -> None:
    """Writes best-weights.json, whole or not at all, and logs it with the table and the scores."""
    records, tracker = results.find_records(place.folder), place.tracker
    content = results.summary(
        records,
        command.objective,
        backbone=command.encoder.backbone,
        seed=command.seed,
        data={"name": place.manifest.name, "digest": place.manifest.digest},
        run_id=run_id,
    )
    path = place.folder / results.BEST_WEIGHTS
    runs.write_json(path, content)
    tracker.file(run_id, path)
    text = results.table(records, command.objective)
    tracker.describe(run_id, f"{content['verdict']}\n\n```\n{text}\n```")
    scores = content["winner"]["scores"]
    tracker.metrics(run_id, {f"best_{name}": value for name, value in scores.items()})


def say(folder: Path, command: LossWeightsCommand) -> None:
    """Prints the table of a search that is done, and where its best weights are."""
    records = results.find_records(folder)
    print(f"\n{results.table(records, command.objective)}\n")
    print(results.verdict(records, command.objective))
    path = folder / results.BEST_WEIGHTS
    print(f"best weights: {path}, for --loss-weights @{path}", flush=True)
