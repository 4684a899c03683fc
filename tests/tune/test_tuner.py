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

from pipelines.config.options import Compute
from pipelines.stages.run_context import RunContext
from pipelines.tracking.mlflow_runs import Tracker
from shards.files.manifest import Manifest
from tests.tune.made_up import make_report
from tune import tuner
from tune.space import EQUAL, KL_LED, Point
from tune.trial import CHECKPOINTS, EPOCH, REPORT, TrialSettings
from tune.tuner import TrialCallback, duration, no_scores


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

    def fit(kind: str, settings: Any, config: tune.TuneConfig, *more: Any) -> list[Any]:
        for number in range(num_trials):
            trial_id = str(number)
            found: Any = config.search_alg.suggest(trial_id)
            points.append(found["point"])
            ig = score(settings.space.weights(found["point"]))
            result = {"ig": ig, "nss": ig, "kl": -ig, "training_iteration": 1}
            config.search_alg.on_trial_result(trial_id, result)
            config.search_alg.on_trial_complete(trial_id, result)
        return []

    monkeypatch.setattr(tuner, "_start", fit)
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


def make_trial(settings: TrialSettings, folder: Path) -> Any:
    """A trial of Ray Tune."""
    folder.mkdir()
    return SimpleNamespace(
        trial_id="a1",
        config={"point": settings.space.point(EQUAL)},
        path=str(folder),
        local_path=str(folder),
        status="RUNNING",
        last_result={},
    )


def run(callback: TrialCallback, trial: Any, epochs: int, end: bool = True) -> None:
    """Call the callback as Ray Tune does."""
    callback.on_trial_start(0, [trial], trial)
    with (Path(trial.path) / "result.json").open("a") as log:
        for epoch in range(1, epochs + 1):
            result = {EPOCH: epoch, REPORT: make_report(epoch, epoch / 10)}
            log.write(json.dumps(result) + "\n")
            callback.on_trial_result(0, [trial], trial, result)
    if end:
        callback.on_trial_complete(0, [trial], trial)


def run_of(trial: Any, tracker: Tracker) -> Any:
    known = json.loads((Path(trial.path) / "mlflow-run.json").read_text())
    return tracker.client.get_run(known["run_id"])


@pytest.mark.parametrize(
    ("length", "state", "status"), [(2, "finished", "FINISHED"), (3, "stopped", "KILLED")]
)
def test_a_trial_has_a_run_with_its_epochs_weights_and_end(
    settings, context, tmp_path, capsys, length, state, status
):
    settings = replace(settings, trial_epochs=length)
    trial, callback = make_trial(settings, tmp_path / "t"), TrialCallback(settings, context, 4)
    (settings.folder / CHECKPOINTS / "a1").mkdir(parents=True)
    callback.setup()
    run(callback, trial, epochs=2)
    found = run_of(trial, context.tracker)
    assert (found.info.status, found.data.tags["state"]) == (status, state)
    assert found.data.params["weight_kl"] == "1.0"
    assert found.data.metrics["best_ig"] == 0.2
    history = context.tracker.client.get_metric_history(found.info.run_id, "val_ig")
    assert [(m.step, m.value) for m in history] == [(1, 0.1), (2, 0.2)]
    assert not (settings.folder / CHECKPOINTS / "a1").exists()
    line = capsys.readouterr().out
    assert line.startswith("trial kl=1,cc=1,nss=1: ig 0.2000")
    assert ("stopped early after epoch 2" in line) == (state == "stopped")
    assert "1 of 4 ended" in line


def test_a_trial_that_is_resumed_keeps_its_run(settings, context, tmp_path):
    settings = replace(settings, trial_epochs=2)
    trial = make_trial(settings, tmp_path / "t")
    run(TrialCallback(settings, context, 4), trial, epochs=1, end=False)
    first = run_of(trial, context.tracker).info.run_id
    run(TrialCallback(settings, context, 4), trial, epochs=2)
    assert run_of(trial, context.tracker).info.run_id == first


def fail(callback: TrialCallback, settings: TrialSettings, folder: Path, others: Any = ()) -> Any:
    trial = make_trial(settings, folder)
    run(callback, trial, epochs=0, end=False)
    error = folder / "error.pkl"
    error.write_bytes(ray.cloudpickle.dumps(RuntimeError("the loss is not finite")))
    trial.pickled_error_file, trial.status = str(error), "ERROR"
    callback.on_trial_error(0, [trial, *others], trial)
    return trial


def test_a_trial_that_fails_says_why(settings, context, tmp_path, capsys):
    callback = TrialCallback(settings, context, 4)
    trial = fail(callback, settings, tmp_path / "t")
    found = run_of(trial, context.tracker)
    assert found.info.status == "FAILED"
    assert "the loss is not finite" in found.data.tags["mlflow.note.content"]
    assert "kl=1,cc=1,nss=1: the loss is not finite" in capsys.readouterr().out


def test_a_search_ends_when_its_first_trials_all_failed(settings, context, tmp_path):
    callback = TrialCallback(settings, context, 9)
    failed = [SimpleNamespace(status="ERROR", last_result={}) for _ in range(4)]
    trains = SimpleNamespace(status="RUNNING", last_result={REPORT: {}})
    fail(callback, settings, tmp_path / "a", [*failed, trains])
    with pytest.raises(ValueError, match=r"the first, kl=1,cc=1,nss=1: the loss is not finite"):
        fail(callback, settings, tmp_path / "b", failed)


def test_a_store_that_does_not_answer_stops_no_search(settings, context, tmp_path, capsys):
    away = replace(context.tracker, uri=f"sqlite:///{tmp_path / 'nowhere.db'}")
    callback = TrialCallback(settings, replace(context, tracker=away), 4)
    run(callback, make_trial(settings, tmp_path / "t"), epochs=1)
    assert capsys.readouterr().out.count("MLflow does not answer") == 1


def test_the_time_left_counts_the_final_runs_and_only_epochs_of_this_call(
    settings, context, make_record
):
    callback = TrialCallback(settings, context, 10, epochs_after=12)
    callback.set_state({"ended": [make_record(n, 0.1) for n in range(4)]})
    callback.setup()
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
