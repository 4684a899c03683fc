"""The search over loss weights, from a command to a table and best-weights.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipelines.config.flags import BEST_WEIGHTS
from pipelines.config.identity import flatten
from pipelines.ray_cluster import connection
from pipelines.stages.encoder_stage import checked
from pipelines.stages.frozen_encoders import FrozenEncoder
from pipelines.stages.run_context import RunContext
from pipelines.tracking import run_folder
from pipelines.tracking.mlflow_runs import Tracker
from pipelines.tracking.provenance import data_tags
from shards.files.manifest import Manifest
from shards.files.store import location
from shards.read.loader import check_sizes
from shards.read.reader import ShardReader
from tune import search_report
from tune.halving import Halving
from tune.live import Display, duration
from tune.objective import halves
from tune.page import write_page
from tune.pareto import choose
from tune.proposals import Proposals, make_study
from tune.results import Spec, TrialRecord, ended, find_records, forget_failed, seconds_spent
from tune.search_config import LossWeightsCommand, check
from tune.space import EQUAL, short
from tune.subjects import make_subject, open_folder, title
from tune.trial import Setting
from tune.tuner import end_runs, has_dashboard, run_trials

UNUSED = ("plan.loss_weights", "plan.select", "search.retry_failed")
"""Fields of the command that say nothing about a search."""
PAGE = "search.html"


def loss_weights(command: LossWeightsCommand) -> Path:
    """Searches, or goes on with a search in the same folder; returns the file of the best weights.

    Raises ValueError when every trial failed, with the first cause; KeyboardInterrupt when trials
    were left.
    """
    check(command)
    data = location(command.data)
    manifest = Manifest.load(data)
    for split in ("train", "val"):
        check_sizes(ShardReader(data, split))
    halves(len(ShardReader(data, "val")))
    if not command.decoder:
        command = replace(command, encoder=checked(command.encoder, command.finetune))
    folder, frozen = open_folder(command, manifest)
    best, search = folder / BEST_WEIGHTS, command.search
    if best.is_file() and not search.retry_failed and search.lengths == _asked(best):
        print(f"done before, in {folder}", flush=True)
        say(folder)
        return best
    with open_search(command, folder, frozen) as (setting, place, at_once):
        run_search(command, setting, place, at_once)
        run_finals(command, setting, place, at_once)
        finish(command, setting, place)
    say(folder)
    return best


@contextmanager
def open_search(
    command: LossWeightsCommand, folder: Path, frozen: Sequence[FrozenEncoder]
) -> Iterator[tuple[Setting, RunContext, int]]:
    """Connects to Ray, begins or goes on with the MLflow run, and makes ready what trials share.

    Gives the setting, the place, and how many trials may run at once.
    """
    data = location(command.data)
    manifest = Manifest.load(data)
    tracker = Tracker.open(command.tracking.uri, command.tracking.experiment or manifest.name)
    # What workers print would tear up the table.
    frees = bool(command.search.stops or command.search.max_hours) and not frozen
    connection.connect(command.compute, include_dashboard=frees, log_to_driver=False)
    params = {k: v for k, v in flatten(command).items() if k not in UNUSED}
    tags = {**data_tags("search", manifest), "backbone": title(command, frozen)}
    name = f"search {folder.name}"
    with tracker.run(folder, name, params=params, tags=tags, data=(data, manifest)) as run_id:
        place = RunContext(
            folder=folder,
            data=(data,),
            manifest=manifest,
            tracker=tracker,
            compute=command.compute,
            parent=run_id,
        )
        if command.search.retry_failed:
            forget_failed(folder)
        subject, at_once = make_subject(command, place, frozen)
        setting = Setting(
            folder=folder,
            subject=subject,
            space=command.search.space,
            objectives=command.search.objectives,
            stop_by=command.search.ranked_by,
            plan=command.plan,
            trial_epochs=command.trial_epochs,
            trial_scale=command.scale,
        )
        yield setting, place, at_once


def _asked(best: Path) -> dict[str, float]:
    asked: dict[str, float] = json.loads(best.read_text()).get("asked", {})
    return asked


def run_search(
    command: LossWeightsCommand, setting: Setting, place: RunContext, at_once: int
) -> None:
    """Runs the trials that are left.

    Raises ValueError when none has scores, with the first cause; KeyboardInterrupt when it was
    interrupted.
    """
    search = command.search
    known = find_records(place.folder)
    done = ended(known)
    end_runs(place.tracker, known)
    left, budget = search.num_trials - len(done), search.max_hours * 3600
    seconds = budget - seconds_spent(known) if budget else None
    print(
        f"{search.num_trials} trials{f', {len(done)} of them done before' if done else ''}, "
        f"{at_once} at once, up to {setting.trial_epochs} epochs each at {setting.trial_scale:g} "
        f"of the size, compared by {search.objective} on half of val"
        f"{f', stopped early by {setting.stop_by}' if search.stops else ''}; in {place.folder}\n"
        f"MLflow run {place.parent} in {command.tracking.uri}",
        flush=True,
    )
    if left > 0 and (seconds is None or seconds > 0):
        specs = first_specs(command, known)
        study = make_study(
            place.folder,
            search.space,
            search.objectives,
            search.sampler,
            command.seed,
            search.num_trials,
        )
        proposals = Proposals(place.folder, specs, study, search.space, command.seed)
        halving = None
        if search.stops:
            halving = Halving(grace=search.grace_epochs, factor=search.reduction)
        stops = halving is not None or seconds is not None
        if stops and not setting.subject.reuse_actors and not has_dashboard():
            if seconds is not None:
                raise ValueError(
                    "--max-hours stops trials, whose workers would never be free again, since this "
                    "Ray cluster runs no dashboard, or another cluster runs on this machine: end "
                    "that, start this with a dashboard, or leave --max-hours out"
                )
            print(
                "no trial is stopped early: the workers of one that is would never be free again, "
                "since this Ray cluster runs no dashboard, or another one runs on this machine",
                flush=True,
            )
            halving = None
        with Display(place.folder, search.objectives, search.num_trials, at_once) as display:
            whole = run_trials(
                setting,
                place,
                proposals,
                left,
                at_once,
                display.update,
                halving,
                seconds,
            )
        if not whole:
            raise KeyboardInterrupt
    records = find_records(place.folder)
    if choose(records, search.objectives) is None:
        _raise_first_cause(records, search.num_trials)


def _raise_first_cause(records: Sequence[TrialRecord], num_trials: int) -> None:
    failed = [record for record in records if record.state == "failed"]
    if not failed:
        raise ValueError("time was up before any trial had an epoch; allow more --max-hours")
    raise ValueError(
        f"none of {num_trials} trials has scores, {len(failed)} trials failed; the first, "
        f"{short(failed[0].weights)}: {failed[0].cause}. When the cause is gone, --retry-failed "
        "runs them again"
    )


def first_specs(command: LossWeightsCommand, known: Sequence[TrialRecord]) -> list[Spec]:
    """Trials that were broken off, then the weights that are named and not yet tried."""
    specs = [record.spec for record in known if record.state == "running"]
    for weights in (EQUAL, *command.search.first):
        spec = Spec(point=command.search.space.point(weights), seed=command.seed)
        if spec.key not in {record.spec.key for record in known} | {each.key for each in specs}:
            specs.append(spec)
    return specs


def run_finals(
    command: LossWeightsCommand, setting: Setting, place: RunContext, at_once: int
) -> None:
    """Trains the winner and 1:1:1 in full with other seeds, those that were not yet."""
    choice = choose(find_records(place.folder), setting.objectives)
    assert choice is not None
    if choice.winner.is_baseline:
        return
    points = (choice.winner.spec.point, setting.space.point(EQUAL))
    seeds = range(command.seed + 1, command.seed + 1 + command.search.final_seeds)
    specs = [Spec(point=point, seed=seed, final=True) for seed in seeds for point in points]
    done = {record.spec.key for record in ended(find_records(place.folder, final=True))}
    left = [spec for spec in specs if spec.key not in done]
    if not left:
        return
    print(
        f"final: {short(choice.winner.weights)} against {short(EQUAL)}, {len(seeds)} seeds each, "
        f"{setting.plan.epochs} epochs at the full size",
        flush=True,
    )
    proposals = Proposals(place.folder, left)
    at_once = min(at_once, len(left))
    with Display(place.folder, setting.objectives, len(specs), at_once, final=True) as display:
        if not run_trials(setting, place, proposals, len(left), at_once, display.update):
            raise KeyboardInterrupt


def finish(command: LossWeightsCommand, setting: Setting, place: RunContext) -> None:
    """Writes best-weights.json and the page, whole or not at all, and logs both."""
    records = find_records(place.folder)
    finals = find_records(place.folder, final=True)
    choice = choose(records, setting.objectives)
    assert choice is not None
    assert place.parent is not None
    trained = sum(record.num_trained for record in records) + command.search.warm_start_epochs
    content = search_report.summary(
        records,
        finals,
        choice,
        setting.objectives,
        subject=setting.subject.title,
        seed=command.seed,
        data={"name": place.manifest.name, "digest": place.manifest.digest},
        run_id=place.parent,
        asked=command.search.lengths,
        cost={
            "trial_epochs": trained,
            "full_epochs": command.search.num_trials * command.plan.epochs,
            "seconds": seconds_spent(records),
        },
    )
    final = search_report.compare(finals, choice.winner)
    page = place.folder / PAGE
    plots = write_page(page, records, choice, final, content, setting.space.terms)
    path = place.folder / BEST_WEIGHTS
    run_folder.write_json(path, content)
    tracker = place.tracker
    for file in (path, page, *plots):
        tracker.file(place.parent, file)
    text = search_report.table(records, choice, setting.objectives)
    if final:
        text = f"{search_report.final_table(choice, final)}\n\n{text}"
    tracker.describe(place.parent, f"{content['verdict']}\n\n```\n{text}\n```")
    scores = {f"best_{name}": value for name, value in choice.winner.scores.items()}
    if final:
        scores |= {f"final_{name}": mean for name, (mean, _) in final.winner.items()}
        scores |= {f"final_gain_{name}": mean for name, (mean, _) in final.gain.items()}
    tracker.metrics(place.parent, scores)


def say(folder: Path) -> None:
    """Prints the tables of a search that is done, and where its best weights are."""
    path = folder / BEST_WEIGHTS
    content = json.loads(path.read_text())
    objectives = content["objectives"]
    records = find_records(folder)
    choice = choose(records, objectives)
    assert choice is not None
    print(f"\n{search_report.table(records, choice, objectives)}\n")
    final = search_report.compare(find_records(folder, final=True), choice.winner)
    if final:
        print(f"{search_report.final_table(choice, final)}\n")
    print(content["verdict"])
    cost = content["cost"]
    print(
        f"{cost['trial_epochs']} epochs of trials ran in {duration(cost['seconds'])}; all trials "
        f"in full are {cost['full_epochs']}"
    )
    for name, value in content["other"].items():
        print(f"the winner's {name} is {value:g}")
    print(f"best weights: {path}, for --loss-weights @{path} or @{content['run_id']}")
    print(f"to look at: {folder / PAGE}", flush=True)
