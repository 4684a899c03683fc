"""A search over loss weights, from the command to best-weights.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ray
from ray.util.state import list_actors

from pipelines.config.flags import BEST_WEIGHTS
from pipelines.config.identity import digest, flatten
from pipelines.config.options import num_cpus
from pipelines.ray_cluster import connection, sizing
from pipelines.stages.encoder_stage import checked
from pipelines.stages.frozen_encoders import (
    FrozenEncoder,
    cache_folder,
    compute_readouts,
    find_packages,
    open_encoders,
)
from pipelines.stages.run_context import RunContext, identify, open_run_folder
from pipelines.stages.select_encoders import without_backbone
from pipelines.tracking import run_folder
from pipelines.tracking.mlflow_runs import Tracker
from pipelines.tracking.provenance import data_tags
from shards.files.manifest import Manifest
from shards.files.store import location
from shards.read.loader import check_sizes
from shards.read.reader import ShardReader
from tune import search_report, tuner
from tune.objective import halves
from tune.records import Choice, TrialRecord, choose, read_records
from tune.search_config import DecoderWeightsCommand, LossWeightsCommand, check
from tune.space import EQUAL, Point, short
from tune.trial import DecoderTrialJob, EncoderTrialJob, TrialSettings

NOT_LOGGED = ("plan.loss_weights", "plan.select", "search.retry_failed")
"""Fields of the command that say nothing about a search."""
PAGE, SUMMARY = "search.html", "summary.txt"


def loss_weights(command: LossWeightsCommand) -> Path:
    """Search, or resume the search in the same folder; return the file of the best weights.

    Raises ValueError when every trial failed, with the first reason.
    """
    check(command)
    data = location(command.data)
    for split in ("train", "val"):
        check_sizes(ShardReader(data, split))
    halves(len(ShardReader(data, "val")))
    if not command.decoder:
        command = replace(command, encoder=checked(command.encoder, command.finetune))
    folder, frozen = open_folder(command, Manifest.load(data))
    best = folder / BEST_WEIGHTS
    if is_done(command, best):
        print(f"done before, in {folder}\n{(folder / SUMMARY).read_text()}", flush=True)
        return best
    with open_search(command, folder, frozen) as (settings, context, at_once):
        trials, choice = run_search(command, settings, context, at_once)
        finals = compare_in_full(command, settings, context, choice, at_once)
        finish(command, settings, context, trials, choice, finals)
    return best


def decoder_weights(command: DecoderWeightsCommand) -> Path:
    """Search for a decoder, as `loss_weights` does."""
    return loss_weights(command)


def is_done(command: LossWeightsCommand, best: Path) -> bool:
    """Whether the command asks for no more than what is there."""
    if not best.is_file() or command.search.retry_failed:
        return False
    return bool(json.loads(best.read_text())["asked"] == command.search.lengths)


def open_folder(
    command: LossWeightsCommand, manifest: Manifest
) -> tuple[Path, list[FrozenEncoder]]:
    """Return the search's folder, absolute, and the encoders whose decoder is tuned, if any.

    The folder is `--out`, or one under runs/ that is the same each time.
    """
    frozen: list[FrozenEncoder] = []
    if command.decoder:
        pulled = Path("runs") / "pulled" / digest(encoders=command.decoder)[:8]
        packages = find_packages(command.decoder, command.tracking.uri, pulled.absolute())
        frozen = open_encoders(packages, manifest, Path())
    # Encoders count by their weights, not by their names; the search may be extended.
    config = replace(command, decoder=(), search=command.search.unlimited)
    identity = identify(
        config,
        [] if frozen else [command.encoder.weights],
        command="tune loss-weights",
        data=manifest.digest,
        encoders=digest(weights=[each.weights for each in frozen]),
    )
    folder = open_run_folder(command.tracking.out, f"tune-{title(command, frozen)}", identity)
    caches = cache_folder(command.readouts, folder)
    return folder, [replace(each, cache=caches / each.cache) for each in frozen]


def title(command: LossWeightsCommand, frozen: Sequence[FrozenEncoder]) -> str:
    """Return what tables call the tuned model."""
    if not command.decoder:
        return command.encoder.backbone
    return "decoder of " + "+".join(each.encoder.config.backbone for each in frozen)


@contextmanager
def open_search(
    command: LossWeightsCommand, folder: Path, frozen: Sequence[FrozenEncoder]
) -> Iterator[tuple[TrialSettings, RunContext, int]]:
    """Connect to Ray, open the MLflow run, and prepare what trials share.

    Yields the settings, the context, and how many trials may run at once.
    Raises ValueError when trials would be stopped in a cluster that does not free their workers.
    """
    search, data = command.search, location(command.data)
    manifest = Manifest.load(data)
    tracker = Tracker.open(command.tracking.uri, command.tracking.experiment or manifest.name)
    stops = not frozen and bool(search.ranked_by or search.max_hours)
    # Lines of workers would tear the table.
    connection.connect(command.compute, include_dashboard=stops, log_to_driver=False)
    if stops:
        check_dashboard()
    params = {k: v for k, v in flatten(command).items() if k not in NOT_LOGGED}
    tags = {**data_tags("search", manifest), "backbone": title(command, frozen)}
    name = f"search {folder.name}"
    with tracker.run(folder, name, params=params, tags=tags, data=(data, manifest)) as run_id:
        context = RunContext(
            folder=folder,
            data=(data,),
            manifest=manifest,
            tracker=tracker,
            compute=command.compute,
            parent=run_id,
        )
        job, at_once = prepare_job(command, context, frozen)
        settings = TrialSettings(
            folder=folder,
            title=title(command, frozen),
            job=job,
            space=search.space,
            objectives=search.objectives,
            stop_by=search.ranked_by,
            trial_epochs=command.trial_epochs,
            trial_scale=command.scale,
        )
        yield settings, context, at_once


def check_dashboard() -> None:
    """Raise ValueError unless the cluster's dashboard answers.

    Ray Train asks it whether a trial was stopped, and else never frees the trial's workers.
    """
    try:
        list_actors(ray.get_runtime_context().gcs_address, limit=1)
    except Exception as error:  # Of several kinds.
        raise ValueError(
            "this Ray cluster has no dashboard, without which the workers of a stopped trial are "
            "never freed; install ray[default] on its head and restart it, or give --stop-by none "
            f"and no --max-hours ({error})"
        ) from error


def prepare_job(
    command: LossWeightsCommand, context: RunContext, frozen: Sequence[FrozenEncoder]
) -> tuple[EncoderTrialJob | DecoderTrialJob, int]:
    """Return the training in full, and how many trials the free resources hold at once.

    Raises ValueError when they hold none, or the workers can't share a batch.
    """
    compute, plan, seed = command.compute, command.plan, command.seed
    scaled = sizing.scaling_config(compute)
    num_workers = 1 if frozen else scaled.max_workers
    needs = {"CPU": 1 if frozen else num_workers * compute.cpus}
    if scaled.use_gpu:
        needs["GPU"] = num_workers
    at_once = min(num_at_once(needs, ray.available_resources()), command.search.num_trials)
    num_threads = compute.threads or max(1, num_cpus() // (at_once * num_workers))
    if frozen:
        compute_readouts(context.data, frozen, compute.use_gpu)
        decoder = DecoderTrialJob(
            data=context.data,
            encoders=tuple(without_backbone(each.encoder) for each in frozen),
            caches=tuple(each.cache for each in frozen),
            decoder=command.decoder_config,
            plan=plan,
            seed=seed,
            num_threads=num_threads,
            use_gpu=bool(scaled.use_gpu),
        )
        return decoder, at_once
    sizing.check_batch(plan.batch_size, compute)
    encoder = EncoderTrialJob(
        data=context.data,
        encoder=command.encoder,
        plan=plan,
        seed=seed,
        loader_workers=compute.loader_workers,
        errors=compute.errors,
        finetune=command.finetune,
        compute=replace(compute, threads=num_threads, max_failures=0),
    )
    return encoder, at_once


def num_at_once(needs: Mapping[str, int], free: Mapping[str, float]) -> int:
    """Return how many trials the free resources hold at once; needs: of one trial.

    Raises ValueError when not even one fits.
    """
    for resource, number in needs.items():
        if free.get(resource, 0) < number:
            raise ValueError(
                f"a trial needs {number} {resource}s, {free.get(resource, 0):g} are free in the "
                "cluster"
            )
    return min(int(free[resource] // number) for resource, number in needs.items())


def run_search(
    command: LossWeightsCommand, settings: TrialSettings, context: RunContext, at_once: int
) -> tuple[list[TrialRecord], Choice]:
    """Run the trials that are left; return all of them and the winner.

    Raises ValueError when none has scores, with the first reason.
    """
    search, folder = command.search, settings.folder
    stops = f", stopped early by {search.ranked_by}" if search.ranked_by else ""
    print(
        f"{search.num_trials} trials, {at_once} at once, up to {settings.trial_epochs} epochs each "
        f"at {settings.trial_scale:g} of the size, compared by {search.objective} on half of val"
        f"{stops}; in {folder}\nMLflow run {context.parent} in {command.tracking.uri}",
        flush=True,
    )
    trials, unfinished = records_of(folder / "trials", retry_failed=search.retry_failed)
    left = search.num_trials - len(trials)
    if left > 0:
        named = first_points(command, [*trials, *unfinished])
        tuner.search_trials(
            settings,
            context,
            left,
            at_once,
            known=trials,
            first=[*(record.point for record in unfinished), *named],
            sampler=search.sampler,
            max_hours=search.max_hours,
            epochs_after=2 * search.final_seeds * command.plan.epochs / settings.trial_scale**2,
            grace_period=search.grace_epochs,
            reduction_factor=search.reduction,
        )
        trials, _ = records_of(folder / "trials")
    choice = choose(trials, settings.objectives)
    if choice is None:
        raise tuner.no_scores(trials)
    return trials, choice


def records_of(
    folder: Path, *, retry_failed: bool = False
) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """Return the trials that ended, and those to run again."""
    again = ("unfinished", "failed") if retry_failed else ("unfinished",)
    records = read_records(folder)
    ended = [record for record in records if record.state not in again]
    return ended, [record for record in records if record.state in again]


def first_points(command: LossWeightsCommand, known: Sequence[TrialRecord]) -> list[Point]:
    """Return the points of 1:1:1 and of the weights that are named, without those tried before."""
    space, tried = command.search.space, [record.point for record in known]
    points = [space.point(weights) for weights in (EQUAL, *command.search.first)]
    return [point for point in points if point not in tried]


def compare_in_full(
    command: LossWeightsCommand,
    settings: TrialSettings,
    context: RunContext,
    choice: Choice,
    at_once: int,
) -> list[TrialRecord]:
    """Train the winner and 1:1:1 in full with other seeds; return all final runs so far."""
    seeds = range(command.seed + 1, command.seed + 1 + command.search.final_seeds)
    if choice.winner.is_baseline:
        seeds = range(0)
    elif seeds:
        print(
            f"final: {choice.winner.name} against {short(EQUAL)}, {search_report.count(seeds)} "
            f"each, {command.plan.epochs} epochs at the full size",
            flush=True,
        )
    points = (choice.winner.point, settings.space.point(EQUAL))
    runs = [(point, seed) for seed in seeds for point in points]
    return train_in_full(settings, context, runs, at_once, retry_failed=command.search.retry_failed)


def train_in_full(
    settings: TrialSettings,
    context: RunContext,
    runs: Sequence[tuple[Point, int]],
    at_once: int,
    *,
    retry_failed: bool = False,
) -> list[TrialRecord]:
    """Train at points, each with a seed, unless it was done before; return all final runs."""
    folder = settings.folder / "finals"
    finals, _ = records_of(folder, retry_failed=retry_failed)
    done = [(record.point, record.seed) for record in finals]
    if left := [run for run in runs if run not in done]:
        tuner.run_finals(settings, context, left, at_once)
    return records_of(folder)[0]


def finish(
    command: LossWeightsCommand,
    settings: TrialSettings,
    context: RunContext,
    trials: Sequence[TrialRecord],
    choice: Choice,
    finals: Sequence[TrialRecord],
) -> None:
    """Write best-weights.json, the page and the summary; log them, and print the summary."""
    assert context.parent is not None
    folder, tracker = settings.folder, context.tracker
    content = search_report.summarise(
        trials,
        finals,
        choice,
        settings.objectives,
        subject=settings.title,
        seed=command.seed,
        data={"name": context.manifest.name, "digest": context.manifest.digest},
        run_id=context.parent,
        asked=command.search.lengths,
        cost={
            "trial_epochs": sum(record.num_trained for record in trials),
            "full_epochs": command.search.num_trials * command.plan.epochs,
            "seconds": sum(record.seconds for record in trials),
        },
    )
    comparison = search_report.compare(finals, choice.winner)
    search_report.write_page(
        folder / PAGE, trials, choice, comparison, content, settings.space.terms
    )
    tables = search_report.text_tables(trials, choice, settings.objectives, comparison)
    best = folder / BEST_WEIGHTS
    summary = f"{tables}\n\n{search_report.closing_lines(content, best, folder / PAGE)}"
    (folder / SUMMARY).write_text(summary)
    run_folder.write_json(best, content)
    for path in (best, folder / PAGE):
        tracker.file(context.parent, path)
    tracker.describe(context.parent, f"{content['verdict']}\n\n```\n{tables}\n```")
    scores = {f"best_{name}": value for name, value in choice.winner.scores.items()}
    if comparison:
        scores |= {f"final_{name}": mean for name, (mean, _) in comparison.winner.items()}
        scores |= {f"final_gain_{name}": mean for name, (mean, _) in comparison.gain.items()}
    tracker.metrics(context.parent, scores)
    print(f"\n{summary}", flush=True)
