"""Ray Tune around the trials: how many run at once, which are stopped, what is recorded."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mlflow.exceptions import MlflowException
from ray import tune
from ray.tune.stopper import Stopper
from ray.util.state import list_actors

from pipelines.config.identity import flatten
from pipelines.stages.run_context import RunContext
from pipelines.tracking.mlflow_runs import Tracker
from pipelines.tracking.provenance import data_tags
from tune.halving import Halving, make_scheduler, stopped_by
from tune.pareto import name
from tune.proposals import Proposals
from tune.results import (
    TrialRecord,
    ended,
    find_record,
    find_records,
    forget_training,
    trial_folder,
)
from tune.trial import CAUSE, EPOCH, REPORT, SPEC, Setting, run_trial

FOLDER = "tuner"
# Without Tune's own display and log files: MLflow and the trials' records have all that.
TUNE_ENV = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""What MLflow calls the ends of a trial."""
HOPELESS = 5
"""Trials that fail before any other ended after which a search is given up."""


def num_at_once(takes: Mapping[str, int], free: Mapping[str, float]) -> int:
    """Trials, of which each takes so much, that the free resources hold at once.

    Raises ValueError when not even one fits.
    """
    for kind, number in takes.items():
        if free.get(kind, 0) < number:
            raise ValueError(
                f"a trial wants {number} {kind}s, the cluster has {free.get(kind, 0):g} free"
            )
    return min(int(free[kind] // number) for kind, number in takes.items())


def has_dashboard(seconds: float = 30) -> bool:
    """Whether the cluster answers questions about its state, now or within some seconds.

    Ray Train frees the workers of a run that was stopped from outside only where it does; it asks
    the machine's only cluster, so that none answers where there are two.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            list_actors(limit=1, timeout=5)
        except Exception:  # Ray raises several kinds, one of them for a server that is starting.
            if time.monotonic() >= until:
                return False
            time.sleep(1)
        else:
            return True


def run_trials(
    setting: Setting,
    place: RunContext,
    proposals: Proposals,
    num_trials: int,
    at_once: int,
    show: Callable[[], None],
    halving: Halving | None = None,
    seconds: float | None = None,
) -> bool:
    """Runs trials until there are `num_trials`, or time is up.

    show: called when a record changed.  halving: stops trials early.
    Returns whether it ended by itself, not by an interrupt.
    """
    for key, value in TUNE_ENV.items():
        os.environ.setdefault(key, value)
    # Of a failed trial Tune prints all it knows; its cause is in the record.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # What Tune keeps of an earlier call is of no use: the records are what is gone on from.
    shutil.rmtree(setting.folder / FOLDER, ignore_errors=True)
    scheduler = make_scheduler(setting, halving)
    watch = Watch(setting, seconds)
    recorder = Recorder(
        setting, place, show, lambda key: watch.stopped or key in stopped_by(scheduler)
    )
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, setting=setting), setting.subject.resources
    )
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=num_trials,
            max_concurrent_trials=at_once,
            search_alg=proposals,
            scheduler=scheduler,
            reuse_actors=setting.subject.reuse_actors,
        ),
        run_config=tune.RunConfig(
            name=FOLDER,
            storage_path=str(setting.folder),
            verbose=0,
            stop=watch,
            callbacks=[recorder],
            failure_config=tune.FailureConfig(max_failures=0, fail_fast=False),
        ),
    ).fit()
    forget_training(setting.folder)  # What workers wrote while their trial was being stopped.
    return recorder.num_ended >= num_trials or watch.stopped


class Watch(Stopper):  # type: ignore[misc]
    """Ends a search when time is up, or when its first trials all failed."""

    def __init__(self, setting: Setting, seconds: float | None) -> None:
        self.setting, self.seconds, self.stopped = setting, seconds, False
        self.began = self.looked = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stops one trial alone."""
        return False

    def stop_all(self) -> bool:
        """Whether to stop; Tune asks many times a second."""
        now = time.monotonic()
        if self.stopped or now - self.looked < 1:
            return self.stopped
        self.looked = now
        records = find_records(self.setting.folder)
        lost = all(record.state == "failed" or not record.scores for record in records)
        hopeless = lost and len(ended(records)) >= HOPELESS
        late = self.seconds is not None and now - self.began >= self.seconds
        self.stopped = late or hopeless
        return self.stopped


class Recorder(tune.Callback):  # type: ignore[misc]
    """Writes what becomes of trials, on disk and to MLflow; runs in the command's own process."""

    def __init__(
        self,
        setting: Setting,
        place: RunContext,
        show: Callable[[], None],
        was_stopped: Callable[[str], bool],
    ) -> None:
        self.setting, self.place, self.show = setting, place, show
        self.was_stopped, self.num_ended = was_stopped, 0
        self.told = False
        self.began: dict[str, tuple[float, float]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles it and never looks at that again; a terminal cannot be pickled."""
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial begins, or goes on where an earlier call of the command broke off."""
        setting, spec = self.setting, trial.config[SPEC]
        record = replace(self._record(trial), state="running", cause="")
        record.save(setting.folder)
        self.began[spec.key] = (time.time(), record.seconds)
        training, kind = setting.trial(spec), "final" if spec.final else "trial"
        weights = {f"weight_{t}": getattr(record.weights, t) for t in setting.space.terms}
        params = {**weights, **flatten(training.plan), "seed": spec.seed, "scale": training.scale}
        title = f"{kind} {name(record)}" + (f" seed {spec.seed}" if spec.final else "")
        run_id = self._tell(
            lambda tracker: tracker.begin(
                trial_folder(setting.folder, spec),
                title,
                params={**params, "width": training.width},
                tags={**data_tags(kind, self.place.manifest), "backbone": setting.subject.title},
                parent=self.place.parent,
            )
        )
        self._save(replace(record, run_id=run_id or record.run_id))

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reported an epoch."""
        known = self._record(trial)
        if result[EPOCH] == known.num_trained > 0:
            return  # An encoder's last epoch is told twice.
        record = known.with_report(result[REPORT], self.setting.objectives[0])
        self._save(record)
        if record.run_id:
            self._tell(lambda tracker: tracker.epoch(record.run_id, result[REPORT]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial ran to its end, or was stopped."""
        record = self._record(trial)
        if record.state == "failed":
            return
        if record.num_trained >= record.num_epochs:
            self._end(replace(record, state="finished"))
        elif record.num_trained and self.was_stopped(record.spec.key):
            self._end(replace(record, state="stopped"))
        # Else it was broken off, and is run again.

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial failed."""
        told = trial_folder(self.setting.folder, trial.config[SPEC]) / CAUSE
        cause = told.read_text() if told.is_file() else "its process died"
        told.unlink(missing_ok=True)
        self._end(replace(self._record(trial), state="failed", cause=cause))

    def _record(self, trial: Any) -> TrialRecord:
        setting, spec = self.setting, trial.config[SPEC]
        found = find_record(setting.folder, spec)
        if found is not None:
            return found
        training = setting.trial(spec)
        other = {"lr": training.plan.lr, "width": float(training.width)}
        return TrialRecord(
            spec=spec,
            weights=training.plan.loss_weights,
            other={key: other[key] for key in setting.space.also},
            num_epochs=training.plan.epochs,
            started=time.time(),
        )

    def _save(self, record: TrialRecord) -> None:
        began, before = self.began.get(record.spec.key, (time.time(), record.seconds))
        replace(record, seconds=before + time.time() - began).save(self.setting.folder)
        self.show()

    def _end(self, record: TrialRecord) -> None:
        self.num_ended += 1
        self._save(record)
        forget_training(self.setting.folder)
        if record.run_id:
            self._tell(lambda tracker: end_run(tracker, record))

    def _tell(self, write: Callable[[Tracker], Any]) -> Any:
        """Writes to MLflow; a store that is away is no reason to stop a search."""
        try:
            return write(self.place.tracker)
        except Exception as error:  # What it is depends on the store.
            if not self.told:
                print(f"MLflow does not answer, the search goes on without: {error}", flush=True)
            self.told = True
            return None


def end_runs(tracker: Tracker, records: Sequence[TrialRecord]) -> None:
    """Tells MLflow of trials that ended when it was away, or just before the command was killed."""
    for record in records:
        if record.state in STATUS and record.run_id:
            with suppress(MlflowException):  # The run may have been deleted.
                if tracker.client.get_run(record.run_id).info.status == "RUNNING":
                    end_run(tracker, record)


def end_run(tracker: Tracker, record: TrialRecord) -> None:
    """What became of a trial, in its MLflow run: its epochs, scores and state."""
    tracker.missing_epochs(record.run_id, record.history)
    if record.scores:
        scores = {f"best_{key}": value for key, value in record.scores.items()}
        tracker.metrics(record.run_id, scores)
    note = f"Failed: {record.cause}" if record.cause else f"{record.state.capitalize()}."
    tracker.describe(record.run_id, note, state=record.state)
    tracker.client.set_terminated(record.run_id, status=STATUS[record.state])
