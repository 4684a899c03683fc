"""The points that are tried, and what is logged and told of trials."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune

from emlnet.losses.weighted import LossWeights
from pipelines.config.options import Compute
from pipelines.stages.run_context import RunContext
from pipelines.tracking.mlflow_runs import Tracker
from shards.files.manifest import Manifest
from tests.tune.made_up import make_report
from tune import tuner
from tune.records import load_record, read_records
from tune.space import EQUAL, KL_LED, Point
from tune.trial import CHECKPOINTS, EPOCH, REPORT, TrialSettings
from tune.tuner import FirstTrialsFailed, TrialCallback, duration, no_scores


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker.open(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}", "osie")


@pytest.fixture
def context(settings: TrialSettings, tracker: Tracker) -> RunContext:
    return RunContext(
        folder=settings.folder,
        data=settings.job.data,
        manifest=Manifest.load(settings.job.data[0]),
        tracker=tracker,
        compute=Compute(),
    )


def configs(
    settings: TrialSettings,
    context: RunContext,
    monkeypatch: pytest.MonkeyPatch,
    score: Any = lambda weights: weights.kl,
    num_trials: int = 6,
    **options: Any,
) -> list[Point]:
    """The points that a search tries, without Ray: each trial ends at once."""
    points: list[Point] = []

    def fit(settings: Any, config: tune.TuneConfig, *more: Any) -> None:
        for number in range(num_trials):
            trial_id = str(number)
            found: Any = config.search_alg.suggest(trial_id)
            points.append(found["point"])
            ig = score(settings.space.weights(found["point"]))
            result = {"ig": ig, "nss": ig, "kl": -ig, "training_iteration": 1}
            config.search_alg.on_trial_result(trial_id, result)
            config.search_alg.on_trial_complete(trial_id, result)

    monkeypatch.setattr(tuner, "_run", fit)
    defaults: dict[str, Any] = {
        "known": [],
        "first": [],
        "sampler": "tpe",
        "max_hours": 0,
        "epochs_after": 0,
        "grace_period": 1,
        "reduction_factor": 3,
    }
    tuner.search_trials(settings, context, num_trials, 2, **{**defaults, **options})
    return points


def test_named_points_come_first_and_a_seed_repeats_what_is_drawn(settings, context, monkeypatch):
    first = [settings.space.point(weights) for weights in (EQUAL, KL_LED)]
    points = configs(settings, context, monkeypatch, first=first)
    assert points[:2] == first
    assert len({tuple(point.values()) for point in points}) == 6
    assert configs(settings, context, monkeypatch, first=first) == points


def test_a_search_that_is_extended_draws_other_points_and_learns_from_known_ones(
    settings, context, monkeypatch, make_record
):
    points = configs(settings, context, monkeypatch)
    known = [make_record(number, float(number)) for number in range(10)]
    assert configs(settings, context, monkeypatch, known=known)[0] not in points
    # KL weighs the more, the better: after ten known trials, more than by chance.
    drawn = configs(settings, context, monkeypatch, known=known, num_trials=20)
    assert sum(settings.space.weights(point).kl for point in drawn) / 20 > 1.4


def test_tpe_finds_better_weights_than_it_began_with(settings, context, monkeypatch):
    """The share of KL is best at .8."""

    def score(weights: Any) -> float:
        return -abs(float(weights.kl) / 3 - 0.8)

    points = configs(settings, context, monkeypatch, score, num_trials=40)
    scores = [score(settings.space.weights(point)) for point in points]
    assert sum(scores[20:]) / 20 > sum(scores[:10]) / 10 + 0.1


def test_several_objectives_are_searched_together(settings, context, monkeypatch):
    several = replace(settings, objectives=("nss", "kl"), stop_by=None)
    assert len(configs(several, context, monkeypatch)) == 6


def make_trial(settings: TrialSettings, trial_id: str = "a", kl: float = 1.0) -> Any:
    """A trial of Ray Tune."""
    point = settings.space.point(LossWeights(kl=kl))
    return SimpleNamespace(trial_id=trial_id, config={"point": point})


def run(callback: TrialCallback, trial: Any, epochs: int, end: bool = True) -> None:
    """Call the callback as Ray Tune does."""
    callback.on_trial_start(0, [trial], trial)
    for epoch in range(1, epochs + 1):
        result = {EPOCH: epoch, REPORT: make_report(epoch, epoch / 10)}
        callback.on_trial_result(0, [trial], trial, result)
    if end:
        callback.on_trial_complete(0, [trial], trial)


def run_of(settings: TrialSettings, trial: Any, tracker: Tracker) -> Any:
    known = json.loads((settings.folder_of(trial.config) / "mlflow-run.json").read_text())
    return tracker.client.get_run(known["run_id"])


@pytest.mark.parametrize(
    ("length", "state", "status"), [(2, "finished", "FINISHED"), (3, "stopped", "KILLED")]
)
def test_a_trial_has_a_record_and_a_run_with_its_epochs_weights_and_end(
    settings, context, capsys, length, state, status
):
    settings = replace(settings, trial_epochs=length)
    trial, callback = make_trial(settings), TrialCallback(settings, context, 4)
    folder = settings.folder_of(trial.config)
    checkpoints = settings.folder / CHECKPOINTS / folder.name
    checkpoints.mkdir(parents=True)
    run(callback, trial, epochs=2)
    found = run_of(settings, trial, context.tracker)
    assert (found.info.status, found.data.tags["state"]) == (status, state)
    assert found.data.params["weight_kl"] == "1.0"
    assert found.data.metrics["best_ig"] == 0.2
    history = context.tracker.client.get_metric_history(found.info.run_id, "val_ig")
    assert [(m.step, m.value) for m in history] == [(1, 0.1), (2, 0.2)]
    assert not checkpoints.exists()
    line = capsys.readouterr().out
    assert line.startswith("trial kl=1,cc=1,nss=1: ig 0.2000")
    assert ("stopped early after epoch 2" in line) == (state == "stopped")
    assert "1 of 4 ended" in line
    record = load_record(folder)
    assert (record.state, record.epoch, record.scores["ig"]) == (state, 2, 0.2)
    assert callback.ended == [record]


def test_a_trial_whose_search_was_killed_keeps_its_run_and_its_place(settings, context):
    settings = replace(settings, trial_epochs=2)
    trials = [make_trial(settings, str(kl), kl) for kl in (1.0, 2.0)]
    callback = TrialCallback(settings, context, 4)
    run(callback, trials[0], epochs=2, end=False)
    run(callback, trials[1], epochs=2)
    first = run_of(settings, trials[0], context.tracker)
    states = [record.state for record in read_records(settings.folder / "trials")]
    assert (states, first.info.status) == (["unfinished", "finished"], "RUNNING")
    run(TrialCallback(settings, context, 4), trials[0], epochs=2)
    again = run_of(settings, trials[0], context.tracker)
    assert (again.info.run_id, again.info.status) == (first.info.run_id, "FINISHED")
    records = read_records(settings.folder / "trials")
    assert [record.weights.kl for record in records] == [1.0, 1.5]
    assert [report["epoch"] for report in records[0].history] == [1, 2]


def test_trials_that_run_when_time_is_up_are_stopped_or_if_they_have_no_epoch_run_again(
    settings, context
):
    settings = replace(settings, trial_epochs=2)
    callback = TrialCallback(settings, context, 4)
    trials = [make_trial(settings, str(kl), kl) for kl in (1.0, 2.0)]
    for epochs, trial in enumerate(trials):
        run(callback, trial, epochs, end=False)
    callback.end_all()
    assert [run_of(settings, trial, context.tracker).info.status for trial in trials] == [
        "KILLED",
        "KILLED",
    ]
    states = [record.state for record in read_records(settings.folder / "trials")]
    assert states == ["unfinished", "stopped"]


def fail(callback: TrialCallback, trial: Any, folder: Path, reason: str) -> None:
    run(callback, trial, epochs=0, end=False)
    error = folder / "error.pkl"
    error.write_bytes(ray.cloudpickle.dumps(RuntimeError(reason)))
    trial.pickled_error_file = str(error)
    callback.on_trial_error(0, [trial], trial)


def test_a_trial_that_fails_says_why(settings, context, tmp_path, capsys):
    callback, trial = TrialCallback(settings, context, 4), make_trial(settings)
    fail(callback, trial, tmp_path, "the loss is not finite")
    found = run_of(settings, trial, context.tracker)
    assert found.info.status == "FAILED"
    assert "the loss is not finite" in found.data.tags["mlflow.note.content"]
    assert "kl=1,cc=1,nss=1: the loss is not finite" in capsys.readouterr().out


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_search_ends_when_its_first_trials_all_failed(settings, context, tmp_path, epochs):
    callback = TrialCallback(settings, context, 9)
    stopper = FirstTrialsFailed(callback)
    if epochs:
        run(callback, make_trial(settings), epochs)
    for number in range(5):
        assert not stopper.stop_all()
        fail(callback, make_trial(settings, str(number), number + 2), tmp_path, "why")
    assert stopper.stop_all() == (epochs == 0)


def test_a_store_that_does_not_answer_stops_no_search(settings, context, tmp_path, capsys):
    away = replace(context.tracker, uri=f"sqlite:///{tmp_path / 'nowhere.db'}")
    callback = TrialCallback(settings, replace(context, tracker=away), 4)
    run(callback, make_trial(settings), epochs=1)
    assert capsys.readouterr().out.count("MLflow does not answer") == 1


def test_the_time_left_counts_the_final_runs_and_only_epochs_of_this_call(
    settings, context, make_record
):
    known = [make_record(n, 0.1) for n in range(4)]
    callback = TrialCallback(settings, context, 10, known, epochs_after=12)
    assert callback.seconds_left(60) == 0
    callback.ended += [make_record(n, 0.1) for n in range(2)]
    # Two epochs took a minute; 4 trials of an epoch are left, and 12 epochs after them.
    assert callback.seconds_left(60) == pytest.approx(30 * (4 + 12))


def test_without_any_score_the_first_reason_is_told(make_record):
    failed = make_record(0, 0.1, state="failed", scores={}, reason="no such file")
    assert "1 failed; the first, kl=1,cc=1,nss=1: no such file" in str(no_scores([failed]))
    assert "--max-hours" in str(no_scores([]))


@pytest.mark.parametrize(
    ("seconds", "words"), [(8, "8 s"), (600, "10 min"), (12_000, "3 h 20 min")]
)
def test_durations_are_told_in_words(seconds, words):
    assert duration(seconds) == words
