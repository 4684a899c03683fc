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
from pipelines.stages.encoder_stage import validate_config
from pipelines.stages.frozen_encoders import (
    FrozenEncoder,
    cache_folder,
    compute_readouts,
    find_packages,
    open_encoders,
)
from pipelines.stages.run_context import RunContext, identify, open_run_folder
from pipelines.stages.select_encoders import without_backbone
from pipelines.tracking.mlflow_runs import Tracker
from pipelines.tracking.provenance import data_tags
from pipelines.tracking.run_folder import write_json
from shards.files.manifest import Manifest
from shards.files.store import location
from shards.read.loader import check_sizes
from shards.read.reader import ShardReader
from tune import tuner
from tune.objective import halves
from tune.records import Choice, TrialRecord, choose, count, read_records
from tune.search_config import DecoderWeightsCommand, LossWeightsCommand, check
from tune.search_report import SearchResult
from tune.space import BASELINE_WEIGHTS, Point, short
from tune.trial import DecoderTrialJob, EncoderTrialJob, OpenSearch

NOT_LOGGED = ("plan.loss_weights", "plan.select", "search.retry_failed")
"""Fields of the command that do not describe a search."""
PAGE, SUMMARY = "search.html", "summary.txt"


def loss_weights(command: LossWeightsCommand) -> Path:
    """Search, or resume the search in the same folder; return the file of the best weights.

    Raises ValueError with the first reason if every trial failed.
    """
    check(command)
    data = location(command.data)
    for split in ("train", "val"):
        check_sizes(ShardReader(data, split))
    halves(len(ShardReader(data, "val")))
    if not command.decoder:
        command = replace(command, encoder=validate_config(command.encoder, command.finetune))
    folder, frozen = open_folder(command, Manifest.load(data))
    best = folder / BEST_WEIGHTS
    if is_done(command, best):
        print(f"done before, in {folder}\n{(folder / SUMMARY).read_text()}", flush=True)
        return best
    with open_search(command, folder, frozen) as search:
        trials, choice = run_search(search)
        finals = compare_in_full(search, choice)
        finish(search, trials, choice, finals)
    return best


def decoder_weights(command: DecoderWeightsCommand) -> Path:
    """Search for a decoder, as `loss_weights` does."""
    return loss_weights(command)


def is_done(command: LossWeightsCommand, best: Path) -> bool:
    """Whether the folder already holds the result of this command."""
    if not best.is_file() or command.search.retry_failed:
        return False
    return bool(json.loads(best.read_text())["asked"] == command.search.lengths)


def open_folder(
    command: LossWeightsCommand, manifest: Manifest
) -> tuple[Path, list[FrozenEncoder]]:
    """Return the search's folder, absolute, and the encoders if a decoder is tuned.

    The folder is `--out`, or one under runs/ named by the search's identity.
    """
    frozen: list[FrozenEncoder] = []
    if command.decoder:
        pulled = Path("runs") / "pulled" / digest(encoders=command.decoder)[:8]
        packages = find_packages(command.decoder, command.tracking.uri, pulled.absolute())
        frozen = open_encoders(packages, manifest, Path())
    # Encoders are identified by their weights.  Limits are left out, so that a later command with
    # more trials or hours extends the same search.
    config = replace(command, decoder=(), search=command.search.unlimited)
    identity = identify(
        config,
        [] if frozen else [command.encoder.weights],
        command="tune loss-weights",
        data=manifest.digest,
        encoders=digest(weights=[encoder.weights for encoder in frozen]),
    )
    folder = open_run_folder(command.tracking.out, f"tune-{title(command, frozen)}", identity)
    caches = cache_folder(command.readouts, folder)
    return folder, [replace(encoder, cache=caches / encoder.cache) for encoder in frozen]


def title(command: LossWeightsCommand, frozen: Sequence[FrozenEncoder]) -> str:
    """Return the name of the tuned model in tables."""
    if not command.decoder:
        return command.encoder.backbone
    return "decoder of " + "+".join(member.encoder.config.backbone for member in frozen)


@contextmanager
def open_search(
    command: LossWeightsCommand, folder: Path, frozen: Sequence[FrozenEncoder]
) -> Iterator[OpenSearch]:
    """Connect to Ray, open the MLflow run, and prepare the trials.

    Raises ValueError if trials may be stopped and the cluster would not free their workers.
    """
    search, data = command.search, location(command.data)
    manifest = Manifest.load(data)
    tracker = Tracker.open(command.tracking.uri, command.tracking.experiment or manifest.name)
    stops = not frozen and bool(search.ranked_by or search.max_hours)
    # Output of workers would mix with the search's own lines.
    connection.connect(command.compute, include_dashboard=stops, log_to_driver=False)
    if stops:
        check_dashboard()
    params = {k: v for k, v in flatten(command).items() if k not in NOT_LOGGED}
    subject = title(command, frozen)
    tags = {**data_tags("search", manifest), "backbone": subject}
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
        job = replace(job, title=subject)
        yield OpenSearch(command=command, context=context, job=job, at_once=at_once)


def check_dashboard() -> None:
    """Raise ValueError unless the cluster's dashboard answers.

    Without it Ray Train never frees the workers of a stopped trial.
    """
    try:
        list_actors(ray.get_runtime_context().gcs_address, limit=1)
    except Exception as error:  # Ray raises errors of several types.
        raise ValueError(
            "this Ray cluster has no dashboard, so the workers of a stopped trial would never be "
            "freed; install ray[default] on its head node and restart it, or pass --stop-by none "
            f"without --max-hours ({error})"
        ) from error


def prepare_job(
    command: LossWeightsCommand, context: RunContext, frozen: Sequence[FrozenEncoder]
) -> tuple[EncoderTrialJob | DecoderTrialJob, int]:
    """Return the job of a full training, and how many trials fit the free resources at once.

    Raises ValueError if none fits, or the workers cannot share a batch.
    """
    compute = command.compute
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
            encoders=tuple(without_backbone(member.encoder) for member in frozen),
            caches=tuple(member.cache for member in frozen),
            decoder=command.decoder_config,
            plan=command.plan,
            seed=command.seed,
            num_threads=num_threads,
            use_gpu=bool(scaled.use_gpu),
        )
        return decoder, at_once
    sizing.check_batch(command.plan.batch_size, compute)
    encoder = EncoderTrialJob(
        data=context.data,
        encoder=command.encoder,
        plan=command.plan,
        seed=command.seed,
        loader_workers=compute.loader_workers,
        errors=compute.errors,
        finetune=command.finetune,
        compute=replace(compute, threads=num_threads, max_failures=0),
    )
    return encoder, at_once


def num_at_once(needs: Mapping[str, int], free: Mapping[str, float]) -> int:
    """Return how many trials fit the free resources at once.

    needs: resources of one trial.  Raises ValueError if none fits.
    """
    for resource, number in needs.items():
        if free.get(resource, 0) < number:
            raise ValueError(
                f"a trial needs {number} {resource}s, {free.get(resource, 0):g} are free in the "
                "cluster"
            )
    return min(int(free[resource] // number) for resource, number in needs.items())


def run_search(search: OpenSearch) -> tuple[list[TrialRecord], Choice]:
    """Run the remaining trials; return all trials and the winner.

    Raises ValueError with the first reason if no trial has scores.
    """
    folder, command, options = search.context.folder, search.command, search.command.search
    may_stop = options.ranked_by and options.grace_epochs < command.trial_epochs
    stops = f", bad ones stopped early by {options.ranked_by}" if may_stop else ""
    print(
        f"{options.num_trials} trials, {search.at_once} at once, up to {command.trial_epochs} "
        f"epochs each at {command.scale:g} of the size, compared by {options.objective} on "
        f"half of val{stops}; in {folder}\n"
        f"MLflow run {search.context.parent} in {command.tracking.uri}",
        flush=True,
    )
    folder /= "trials"
    trials, unfinished = split_records(folder, retry_failed=options.retry_failed)
    if len(trials) < options.num_trials:
        named = first_points(command, [*trials, *unfinished])
        first = [*(record.point for record in unfinished), *named]
        tuner.search_trials(search, trials, first)
        trials, _ = split_records(folder)
    choice = choose(trials, options.objectives)
    if choice is None:
        raise tuner.no_scores(trials)
    return trials, choice


def split_records(
    folder: Path, *, retry_failed: bool = False
) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """Return the trials that ended, and those to run again."""
    again = ("unfinished", "failed") if retry_failed else ("unfinished",)
    records = read_records(folder)
    ended = [record for record in records if record.state not in again]
    return ended, [record for record in records if record.state in again]


def first_points(command: LossWeightsCommand, known: Sequence[TrialRecord]) -> list[Point]:
    """Return the points of 1:1:1 and of `--first`, without those tried before."""
    space, tried = command.search.space, [record.point for record in known]
    points = [space.point(weights) for weights in (BASELINE_WEIGHTS, *command.search.first)]
    return [point for point in points if point not in tried]


def compare_in_full(search: OpenSearch, choice: Choice) -> list[TrialRecord]:
    """Train the winner and 1:1:1 in full with other seeds; return all final runs so far."""
    command = search.command
    seeds = range(command.seed + 1, command.seed + 1 + command.search.final_seeds)
    if choice.winner.is_baseline:
        seeds = range(0)
    elif seeds:
        print(
            f"final: {choice.winner.name} against {short(BASELINE_WEIGHTS)}, "
            f"{count(len(seeds), 'seed')} each, {count(command.plan.epochs, 'epoch')} "
            "at the full size",
            flush=True,
        )
    points = (choice.winner.point, command.search.space.point(BASELINE_WEIGHTS))
    runs = [(point, seed) for seed in seeds for point in points]
    return train_in_full(search, runs, retry_failed=command.search.retry_failed)


def train_in_full(
    search: OpenSearch, runs: Sequence[tuple[Point, int]], *, retry_failed: bool = False
) -> list[TrialRecord]:
    """Train each point and seed in full, unless done before; return all final runs."""
    folder = search.context.folder / "finals"
    finals, _ = split_records(folder, retry_failed=retry_failed)
    done = [(record.point, record.seed) for record in finals]
    if left := [run for run in runs if run not in done]:
        tuner.run_finals(search, left)
    return split_records(folder)[0]


def finish(
    search: OpenSearch,
    trials: Sequence[TrialRecord],
    choice: Choice,
    finals: Sequence[TrialRecord],
) -> None:
    """Write best-weights.json, the page and the summary; log them, and print the summary."""
    context, folder = search.context, search.context.folder
    assert context.parent is not None
    best, page = folder / BEST_WEIGHTS, folder / PAGE
    result = SearchResult(search=search, trials=trials, finals=finals, choice=choice)
    result.write_page(page)
    tables = result.text_tables()
    summary = f"{tables}\n\n{result.closing_lines(best, page)}"
    (folder / SUMMARY).write_text(summary)
    write_json(best, result.content)
    tracker = context.tracker
    for path in (best, page):
        tracker.log_file(context.parent, path)
    tracker.describe(context.parent, f"{result.verdict}\n\n```\n{tables}\n```")
    tracker.log_metrics(context.parent, result.metrics)
    print(f"\n{summary}", flush=True)
