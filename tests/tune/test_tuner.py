"""The points that a search tries, and its trials' records, runs and lines."""

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
from pipelines.tracking.mlflow_runs import Tracker
from tests.tune.made_up import make_report, searching
from tune import tuner
from tune.records import load_record, read_records
from tune.space import BASELINE_WEIGHTS, KL_LED, Point, Space
from tune.trial import CHECKPOINTS, EPOCH, REPORT
from tune.tuner import OpenSearch, TrialCallback, no_scores

SPACE = Space()


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker.open(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}", "osie")


@pytest.fixture
def tracked(search: OpenSearch, tracker: Tracker) -> OpenSearch:
    """A search with an MLflow store, for trials of two epochs."""
    context = replace(search.context, tracker=tracker, parent=None)
    return searching(replace(search, context=context), trial_epochs=2)


def points_of(
    search: OpenSearch,
    monkeypatch: pytest.MonkeyPatch,
    score: Any = lambda weights: weights.kl,
    known: Any = (),
    first: Any = (),
    **options: Any,
) -> list[Point]:
    """The points that a search tries, without Ray: each trial ends at once."""
    points: list[Point] = []

    def fit(config: tune.TuneConfig, *more: Any) -> None:
        for number in range(config.num_samples):
            trial_id = str(number)
            found: Any = config.search_alg.suggest(trial_id)
            points.append(found["point"])
            ig = score(SPACE.weights(found["point"]))
            result = {"ig": ig, "nss": ig, "kl": -ig, "training_iteration": 1}
            config.search_alg.on_trial_result(trial_id, result)
            config.search_alg.on_trial_complete(trial_id, result)

    monkeypatch.setattr(tuner, "_run", fit)
    tuner.search_trials(searching(search, **options), known, first)
    return points


def test_named_points_come_first_and_a_seed_repeats_the_drawn_ones(search, monkeypatch):
    first = [SPACE.point(weights) for weights in (BASELINE_WEIGHTS, KL_LED)]
    points = points_of(search, monkeypatch, first=first, num_trials=6)
    assert points[:2] == first
    assert len({tuple(point.values()) for point in points}) == 6
    assert points_of(search, monkeypatch, first=first, num_trials=6) == points


def test_a_search_that_is_extended_draws_other_points_and_learns_from_known_ones(
    search, monkeypatch, make_record
):
    points = points_of(search, monkeypatch, num_trials=6)
    known = [make_record(number, float(number)) for number in range(10)]
    drawn = points_of(search, monkeypatch, known=known, num_trials=30)
    assert len(drawn) == 20
    assert drawn[0] not in points
    # KL weighs the more, the better: after ten known trials, more than by chance.
    assert sum(SPACE.weights(point).kl for point in drawn) / 20 > 1.4


def test_tpe_finds_better_weights_than_it_began_with(search, monkeypatch):
    """The share of KL is best at .8."""

    def score(weights: Any) -> float:
        return -abs(float(weights.kl) / 3 - 0.8)

    points = points_of(search, monkeypatch, score, num_trials=40)
    scores = [score(SPACE.weights(point)) for point in points]
    assert sum(scores[20:]) / 20 > sum(scores[:10]) / 10 + 0.1


def test_several_objectives_are_searched_together(search, monkeypatch):
    assert len(points_of(search, monkeypatch, objective="nss,kl", num_trials=6)) == 6


def make_trial(kl: float = 1.0) -> Any:
    """A trial of Ray Tune."""
    point = SPACE.point(LossWeights(kl=kl))
    return SimpleNamespace(trial_id=f"kl={kl}", config={"point": point})


def run(callback: TrialCallback, trial: Any, epochs: int, end: bool = True) -> None:
    """Call the callback as Ray Tune does."""
    callback.on_trial_start(0, [*callback.running.values(), trial], trial)
    for epoch in range(1, epochs + 1):
        result = {EPOCH: epoch, REPORT: make_report(epoch, epoch / 10)}
        callback.on_trial_result(0, [trial], trial, result)
    if end:
        callback.on_trial_complete(0, [trial], trial)


def run_of(search: OpenSearch, trial: Any) -> Any:
    folder = search.folder_of(trial.config)
    known = json.loads((folder / "mlflow-run.json").read_text())
    return search.context.tracker.client.get_run(known["run_id"])


def states(search: OpenSearch) -> list[str]:
    return [record.state for record in read_records(search.context.folder / "trials")]


@pytest.mark.parametrize(
    ("epochs", "state", "status"), [(2, "finished", "FINISHED"), (1, "stopped", "KILLED")]
)
def test_a_trial_has_a_record_and_a_run_with_its_epochs_weights_and_end(
    tracked, capsys, epochs, state, status
):
    trial, callback = make_trial(), TrialCallback(tracked, 4)
    folder = tracked.folder_of(trial.config)
    checkpoints = tracked.context.folder / CHECKPOINTS / folder.name
    checkpoints.mkdir(parents=True)
    run(callback, trial, epochs)
    assert not checkpoints.exists()

    record = load_record(folder)
    assert (record.state, record.epoch, record.scores["ig"]) == (state, epochs, epochs / 10)
    assert callback.ended == [record]
    found = run_of(tracked, trial)
    assert (found.info.status, found.data.tags["state"]) == (status, state)
    assert found.data.params["weight_kl"] == "1.0"
    assert found.data.metrics["best_ig"] == epochs / 10
    history = tracked.context.tracker.client.get_metric_history(found.info.run_id, "val_ig")
    assert [(m.step, m.value) for m in history] == [(e, e / 10) for e in range(1, epochs + 1)]
    line = capsys.readouterr().out
    assert line.startswith(f"trial kl=1,cc=1,nss=1: ig {epochs / 10:.4f}")
    assert ("stopped early after epoch 1" in line) == (state == "stopped")
    assert "1 of 4 ended" in line


def test_a_trial_whose_search_was_killed_keeps_its_run_and_its_place(tracked):
    trials = [make_trial(kl) for kl in (1.0, 2.0)]
    callback = TrialCallback(tracked, 4)
    run(callback, trials[0], epochs=2, end=False)
    run(callback, trials[1], epochs=2)
    first = run_of(tracked, trials[0])
    assert (states(tracked), first.info.status) == (["unfinished", "finished"], "RUNNING")
    run(TrialCallback(tracked, 4), trials[0], epochs=2)
    again = run_of(tracked, trials[0])
    assert (again.info.run_id, again.info.status) == (first.info.run_id, "FINISHED")
    records = read_records(tracked.context.folder / "trials")
    assert [record.weights.kl for record in records] == [1.0, 1.5]
    assert [report["epoch"] for report in records[0].history] == [1, 2]


def test_trials_that_run_when_time_is_up_are_stopped_or_without_an_epoch_run_again(tracked):
    callback, trials = TrialCallback(tracked, 4), [make_trial(kl) for kl in (1.0, 2.0)]
    for epochs, trial in enumerate(trials):
        run(callback, trial, epochs, end=False)
    callback.end_all()
    assert {run_of(tracked, trial).info.status for trial in trials} == {"KILLED"}
    assert states(tracked) == ["unfinished", "stopped"]


def fail(callback: TrialCallback, trial: Any, folder: Path) -> None:
    run(callback, trial, epochs=0, end=False)
    error = folder / "error.pkl"
    error.write_bytes(ray.cloudpickle.dumps(RuntimeError("the loss is not finite")))
    trial.pickled_error_file = str(error)
    callback.on_trial_error(0, [trial], trial)


def test_a_trial_that_fails_says_why(tracked, tmp_path, capsys):
    callback, trial = TrialCallback(tracked, 4), make_trial()
    fail(callback, trial, tmp_path)
    assert callback.ended[0].reason == "the loss is not finite"
    found = run_of(tracked, trial)
    assert found.info.status == "FAILED"
    assert "the loss is not finite" in found.data.tags["mlflow.note.content"]
    assert "kl=1,cc=1,nss=1: the loss is not finite" in capsys.readouterr().out


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_search_ends_when_its_first_trials_all_failed(tracked, tmp_path, epochs):
    callback = TrialCallback(tracked, 9)
    if epochs:
        run(callback, make_trial(), epochs)
    for number in range(5):
        assert not callback.stop_all()
        fail(callback, make_trial(number + 2), tmp_path)
    assert callback.stop_all() == (epochs == 0)


def test_a_store_that_does_not_answer_stops_no_search(search, capsys):
    run(TrialCallback(search, 4), make_trial(), epochs=1)
    assert states(search) == ["finished"]
    assert capsys.readouterr().out.count("MLflow does not answer") == 1


def test_the_time_left_counts_the_final_runs_and_only_epochs_of_this_call(search, make_record):
    known = [make_record(n, 0.1) for n in range(4)]
    callback = TrialCallback(search, 10, known, epochs_after=12)
    assert callback.seconds_left(60) == 0
    callback.ended += [make_record(n, 0.1) for n in range(2)]
    # Two epochs took a minute; 4 trials of an epoch are left, and 12 epochs after them.
    assert callback.seconds_left(60) == pytest.approx(30 * (4 + 12))


def test_without_any_score_the_error_has_the_first_reason(make_record):
    failed = make_record(0, 0.1, state="failed", scores={}, reason="no such file")
    assert "1 failed; the first, kl=1,cc=1,nss=1: no such file" in str(no_scores([failed]))
    assert "--max-hours" in str(no_scores([]))
