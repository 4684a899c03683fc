"""Run trials under Ray Tune, keep their records and log them to MLflow."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import optuna
import ray
from optuna.distributions import BaseDistribution, FloatDistribution
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from pipelines.config.identity import flatten
from pipelines.tracking.mlflow_runs import Tracker, public_first_line
from pipelines.tracking.provenance import data_tags
from tune.objective import direction
from tune.records import TrialRecord, choose, load_record, read_records
from tune.space import FACTORS, Point
from tune.trial import CHECKPOINTS, EPOCH, KINDS, REPORT, OpenSearch, run_trial

STUDY, POINT = "search", "point/"
TUNE_ENV = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
MAX_FAILED = 5
"""A search ends if this many trials have ended and all failed."""
STATUS = {"finished": "FINISHED", "failed": "FAILED"}
"""MLflow status by a trial's state; all other states are KILLED."""


def search_trials(search: OpenSearch, known: Sequence[TrialRecord], first: Sequence[Point]) -> None:
    """Run the remaining trials at points that Optuna proposes.

    known: ended trials, from which the sampler learns.  first: points to try before the sampler's.
    """
    command, options = search.command, search.command.search
    names, is_single = options.objectives, len(options.objectives) == 1
    num_trials, ranges = options.num_trials - len(known), options.space.ranges()
    space: dict[str, BaseDistribution] = {
        f"{POINT}{name}": FloatDistribution(*ends, log=name in FACTORS)
        for name, ends in ranges.items()
    }
    storage = optuna.storages.InMemoryStorage()
    study = create_study(names, storage=storage, study_name=STUDY)
    for record in known:
        if record.scores:
            values = [record.scores[name] for name in names]
            params = in_optuna(record.point)
            study.add_trial(optuna.create_trial(params=params, distributions=space, values=values))
    seed = command.seed * 10_007 + len(known)
    # TPE first draws at random; its default number would use up a short search.
    tpe = optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(3, num_trials // 4)))
    modes = [direction(name) for name in names]
    searcher = OptunaSearch(
        space,
        metric=names[0] if is_single else list(names),
        mode=modes[0] if is_single else modes,
        sampler=tpe if options.sampler == "tpe" else optuna.samplers.RandomSampler(seed=seed),
        points_to_evaluate=[in_optuna(point) for point in first],
        study_name=STUDY,
        storage=storage,
    )
    scheduler = options.ranked_by and ASHAScheduler(
        time_attr=EPOCH,
        metric=options.ranked_by,
        mode=direction(options.ranked_by),
        # Above the last epoch, after which a trial ends by itself.
        max_t=command.trial_epochs + 1,
        grace_period=options.grace_epochs,
        reduction_factor=options.reduction,
    )
    config = tune.TuneConfig(
        num_samples=num_trials,
        max_concurrent_trials=search.at_once,
        search_alg=searcher,
        scheduler=scheduler or None,
        reuse_actors=search.job.reuse_actors,
        time_budget_s=options.max_hours * 3600 or None,
    )
    # The cost of the final runs, in epochs of trials.
    epochs_after = 2 * options.final_seeds * command.plan.epochs / command.scale**2
    _run(config, TrialCallback(search, options.num_trials, known, epochs_after))


def create_study(objectives: Sequence[str], **options: Any) -> optuna.Study:
    """Return an empty study with the directions of the objectives."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    words: dict[str, Literal["minimize", "maximize"]] = {"min": "minimize", "max": "maximize"}
    directions = [words[direction(name)] for name in objectives]
    return optuna.create_study(directions=directions, **options)


def in_optuna(point: Point) -> dict[str, float]:
    """Return a point under the names that Ray Tune nests into `config["point"]`."""
    return {f"{POINT}{name}": value for name, value in point.items()}


def run_finals(search: OpenSearch, runs: Sequence[tuple[Point, int]]) -> None:
    """Train each point and seed in full."""
    config = tune.TuneConfig(
        max_concurrent_trials=min(search.at_once, len(runs)),
        reuse_actors=search.job.reuse_actors,
    )
    grid = tune.grid_search([{"point": dict(point), "seed": seed} for point, seed in runs])
    _run(config, TrialCallback(search, len(runs)), {"final": grid})


def _run(
    config: tune.TuneConfig, callback: TrialCallback, param_space: dict[str, Any] | None = None
) -> None:
    """Run trials.  Raises KeyboardInterrupt if they are interrupted."""
    search = callback.search
    for name, value in TUNE_ENV.items():
        os.environ.setdefault(name, value)
    # Tune prints the whole traceback of a failed trial; its record has the reason.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    trainable = tune.with_parameters(run_trial, search=search)
    tuner = tune.Tuner(
        tune.with_resources(trainable, search.job.resources),
        param_space=param_space,
        tune_config=config,
        run_config=tune.RunConfig(
            storage_path=str(search.context.folder / "tuner"),
            verbose=0,
            callbacks=[callback],
            stop=callback,
        ),
    )
    results = tuner.fit()
    # Tune's controller removes placement groups when it is garbage-collected.  If a thread of Ray
    # collected it later, that thread would wait for itself.
    gc.collect()
    if results.num_terminated + results.num_errors < len(results):
        raise KeyboardInterrupt
    callback.end_all()
    # Workers may have written there while their trial was being stopped.
    shutil.rmtree(search.context.folder / CHECKPOINTS, ignore_errors=True)


class TrialCallback(tune.Callback, tune.Stopper):  # type: ignore[misc]
    """Keeps each trial's record, logs it to an MLflow run, and prints a line at its end.

    If the first trials all fail, it ends the search.  If MLflow does not answer, the search
    continues.  num_trials: trials in the search.  known: trials of earlier calls.  epochs_after:
    the cost of the final runs, in epochs of trials.
    """

    def __init__(
        self,
        search: OpenSearch,
        num_trials: int,
        known: Sequence[TrialRecord] = (),
        epochs_after: float = 0.0,
    ) -> None:
        self.search = search
        self.num_trials, self.epochs_after = num_trials, epochs_after
        self.ended, self.num_known = list(known), len(known)
        self.running: dict[str, Any] = {}
        self.records: dict[str, TrialRecord] = {}
        self.run_ids: dict[str, str] = {}
        earlier = [r for kind in KINDS for r in read_records(search.context.folder / kind)]
        self.first_number = 1 + max((record.number for record in earlier), default=-1)
        self.is_warned = False
        self.began = time.monotonic()

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Begin or resume the trial's record and MLflow run.

        trials: all trials of this call, in the order of proposal.
        """
        search = self.search
        folder, job = search.folder_of(trial.config), search.make_job(trial.config)
        record = load_record(folder)
        if record is None:
            number = self.first_number + trials.index(trial)
            record = TrialRecord.of(search, trial.config, number=number)
            record.save(folder)
        self.running[trial.trial_id], self.records[trial.trial_id] = trial, record
        kind, seed = ("final", f" seed {job.seed}") if job.final else ("trial", "")
        name, parent = f"{kind} {record.name}{seed}", search.context.parent
        params = {**flatten(job.plan), "seed": job.seed, "scale": job.scale, "width": job.width}
        for term in search.command.search.space.terms:
            params[f"weight_{term}"] = getattr(job.plan.loss_weights, term)
        tags = {
            **data_tags(kind, search.context.manifest),
            "backbone": job.title,
            "seed": str(job.seed),
        }

        def begin(tracker: Tracker) -> None:
            run_id = tracker.begin(folder, name, params=params, tags=tags, parent=parent)
            self.run_ids[trial.trial_id] = run_id

        self._log(begin)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Add an epoch to the trial's record and run; drop later epochs of an earlier attempt."""
        report, record = result[REPORT], self.records[trial.trial_id]
        earlier = [past for past in record.history if past["epoch"] < report["epoch"]]
        record = replace(record, state="unfinished", history=[*earlier, report])
        record.save(self.search.folder_of(trial.config))
        self.records[trial.trial_id] = record
        if run_id := self.run_ids.get(trial.trial_id):
            self._log(lambda tracker: tracker.log_epoch(run_id, report))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """End a trial that finished or was stopped."""
        self._end(trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """End a trial that failed, perhaps before it started."""
        if trial.trial_id not in self.running:
            self.on_trial_start(iteration, trials, trial)
        path = trial.pickled_error_file
        self._end(trial, reason_of(ray.cloudpickle.loads(Path(path).read_bytes())))

    def end_all(self) -> None:
        """End the trials that ran when time was up; Tune does not report them."""
        for trial in list(self.running.values()):
            self._end(trial)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether to end the search because its first trials all failed."""
        return len(self.ended) >= MAX_FAILED and all(record.reason for record in self.ended)

    def _end(self, trial: Any, reason: str = "") -> None:
        del self.running[trial.trial_id]
        search, begun = self.search, self.records[trial.trial_id]
        folder = search.folder_of(trial.config)
        shutil.rmtree(search.context.folder / CHECKPOINTS / folder.name, ignore_errors=True)
        record = TrialRecord.of(
            search, trial.config, begun.history, number=begun.number, reason=reason
        )

        def end(tracker: Tracker) -> None:
            run_id = self.run_ids[trial.trial_id]
            tracker.log_missing_epochs(run_id, record.history)
            tracker.log_metrics(run_id, {f"best_{name}": v for name, v in record.scores.items()})
            note = f"Failed: {reason}" if reason else f"{record.state.capitalize()}."
            tracker.describe(run_id, note, state=record.state)
            tracker.client.set_terminated(run_id, status=STATUS.get(record.state, "KILLED"))

        if trial.trial_id in self.run_ids:
            self._log(end)
        record.save(folder)  # Last: if this process dies before, the trial runs again.
        if record.state != "unfinished":
            self.ended.append(record)
            print(self.line(), flush=True)

    def _log(self, write: Callable[[Tracker], None]) -> None:
        try:
            write(self.search.context.tracker)
        except Exception as error:  # Its kind depends on the store.
            if not self.is_warned:
                print(f"MLflow does not answer, the search continues: {public_first_line(error)}")
            self.is_warned = True

    def line(self) -> str:
        """Describe the end of the last trial, the best so far, and the time left."""
        last, names = self.ended[-1], self.search.command.search.objectives
        kind = f"final run, seed {last.seed}," if last.final else "trial"
        parts = [f"{kind} {last.name}: " + (last.reason or _scores(last, names))]
        if last.state == "stopped":
            parts[0] += f", stopped early after epoch {last.num_trained}"
        best = choose(self.ended, names)
        if best and not last.final:
            parts.append(f"best so far {_scores(best.winner, names)} with {best.winner.name}")
        parts.append(f"{len(self.ended)} of {self.num_trials} ended")
        if left := round(self.seconds_left(time.monotonic() - self.began)):
            with_finals = ", final runs included" if self.epochs_after else ""
            parts.append(f"about {timedelta(seconds=left)} left{with_finals}")
        return "; ".join(parts)

    def seconds_left(self, elapsed: float) -> float:
        """Estimate the time left from the epochs of this call's trials; 0 if unknown."""
        new = self.ended[self.num_known :]
        trained = sum(record.num_trained for record in new)
        if not trained:
            return 0.0
        left = (self.num_trials - len(self.ended)) * trained / len(new) + self.epochs_after
        return elapsed / trained * left


def _scores(record: TrialRecord, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {record.scores[name]:.4f}" for name in names if record.scores)


def reason_of(error: Any) -> str:
    """Return in one line why a trial failed."""
    if isinstance(error, ray.exceptions.RayActorError):
        return "its process died"
    return public_first_line(getattr(error, "cause", error))


def no_scores(records: Sequence[TrialRecord]) -> ValueError:
    """Return the error of a search without any score, with the reason of the first failure."""
    failed = [record for record in records if record.state == "failed"]
    if not failed:
        return ValueError("--max-hours ended before any trial finished an epoch; raise it")
    return ValueError(
        f"no trial has scores, {len(failed)} failed; the first, {failed[0].name}: "
        f"{failed[0].reason}. Remove the cause and run the command with --retry-failed"
    )
