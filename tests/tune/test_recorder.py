"""What is written of a trial, on disk and to MLflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emlnet.models.encoder import EncoderConfig
from emlnet.training.state import Plan
from pipelines.config.options import Compute
from pipelines.stages.run_context import RunContext
from pipelines.tracking.mlflow_runs import Tracker
from shards.files.manifest import Manifest
from tune.encoder_trial import EncoderSubject
from tune.results import TRAINING, Spec, find_record, trial_folder
from tune.space import EQUAL, Space
from tune.trial import CAUSE, EPOCH, REPORT, SPEC, Setting
from tune.tuner import Recorder, Watch

SPEC_OF_EQUAL = Spec(point=Space().point(EQUAL), seed=0)
TRIAL: Any = SimpleNamespace(config={SPEC: SPEC_OF_EQUAL}, trial_id="a")


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker.open(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}", "osie")


@pytest.fixture
def recorder(tracker: Tracker, data: Path, tmp_path: Path) -> Recorder:
    subject = EncoderSubject(
        data=data, encoder=EncoderConfig(backbone="tiny", weights="none"), compute=Compute()
    )
    setting = Setting(
        folder=tmp_path,
        subject=subject,
        space=Space(),
        objectives=("ig",),
        stop_by="ig",
        plan=Plan(epochs=2),
        trial_epochs=2,
        trial_scale=0.5,
    )
    place = RunContext(
        folder=tmp_path,
        data=(data,),
        manifest=Manifest.load(data),
        tracker=tracker,
        compute=Compute(),
    )
    return Recorder(setting, place, lambda: None, lambda key: False)


def report(epoch: int, ig: float) -> dict[str, Any]:
    return {
        EPOCH: epoch,
        REPORT: {
            "epoch": epoch,
            "train_loss": {"total": 1.0},
            "scores": {"ig": ig},
            "seconds": 1.0,
            "skipped": 0,
        },
    }


def begin(recorder: Recorder, trial: Any = TRIAL, epochs: int = 0) -> None:
    recorder.on_trial_start(0, [], trial)
    for epoch in range(1, epochs + 1):
        recorder.on_trial_result(0, [], trial, report(epoch, epoch / 10))


def record_of(recorder: Recorder):
    record = find_record(recorder.setting.folder, SPEC_OF_EQUAL)
    assert record is not None
    return record


def test_a_trial_that_ends_is_finished_with_its_epochs_in_its_run(recorder, tracker):
    begin(recorder, epochs=2)
    assert record_of(recorder).state == "running"
    recorder.on_trial_complete(0, [], TRIAL)
    record = record_of(recorder)
    assert (record.state, record.epoch, record.scores) == ("finished", 2, {"ig": 0.2})
    run = tracker.client.get_run(record.run_id)
    assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "finished")
    assert run.data.params["weight_kl"] == "1.0"
    history = tracker.client.get_metric_history(record.run_id, "val_ig")
    assert [(m.step, m.value) for m in history] == [(1, 0.1), (2, 0.2)]


def test_an_epoch_that_is_told_twice_counts_once(recorder, tracker):
    begin(recorder, epochs=2)
    recorder.on_trial_result(0, [], TRIAL, report(2, 0.2))
    record = record_of(recorder)
    assert record.num_trained == 2
    assert len(tracker.client.get_metric_history(record.run_id, "val_ig")) == 2


def test_a_trial_that_the_scheduler_ends_is_stopped_and_one_that_broke_off_goes_on(recorder):
    begin(recorder, epochs=1)
    recorder.on_trial_complete(0, [], TRIAL)
    assert record_of(recorder).state == "running"
    training = trial_folder(recorder.setting.folder, SPEC_OF_EQUAL) / TRAINING
    training.mkdir()
    recorder.was_stopped = lambda key: key == SPEC_OF_EQUAL.key
    recorder.on_trial_complete(0, [], TRIAL)
    assert record_of(recorder).state == "stopped"
    assert not training.exists()


def test_a_trial_that_fails_says_why(recorder, tracker):
    begin(recorder)
    cause = trial_folder(recorder.setting.folder, SPEC_OF_EQUAL) / CAUSE
    cause.write_text("the loss is not finite")
    recorder.on_trial_error(0, [], TRIAL)
    record = record_of(recorder)
    assert (record.state, record.cause) == ("failed", "the loss is not finite")
    run = tracker.client.get_run(record.run_id)
    assert run.info.status == "FAILED"
    assert "the loss is not finite" in run.data.tags["mlflow.note.content"]
    assert not cause.exists()


def test_a_trial_that_goes_on_keeps_its_run_and_its_epochs(recorder):
    begin(recorder, epochs=1)
    first = record_of(recorder)
    again = Recorder(recorder.setting, recorder.place, lambda: None, lambda _: False)
    again.on_trial_start(0, [], TRIAL)
    again.on_trial_result(0, [], TRIAL, report(2, 0.05))
    record = record_of(again)
    assert (record.run_id, record.num_trained, record.epoch) == (first.run_id, 2, 1)


def test_a_search_is_given_up_when_its_first_trials_failed_and_none_has_scores(
    recorder, make_record
):
    watch = Watch(recorder.setting, None)
    for number in range(5):
        record = make_record(number, 0.1, state="failed", scores={}, history=[])
        record.save(recorder.setting.folder)
    running = make_record(5, 0.1, state="running", num_epochs=3)
    running.save(recorder.setting.folder)
    watch.looked -= 2
    assert not watch.stop_all()  # One trains, and has scores.
    replace(running, state="failed").save(recorder.setting.folder)
    watch.looked -= 2
    assert watch.stop_all()


def test_a_store_that_is_away_does_not_stop_a_search(recorder, tmp_path, capsys):
    away = replace(recorder.place.tracker, uri=f"sqlite:///{tmp_path / 'nowhere.db'}")
    recorder.place = replace(recorder.place, tracker=away)
    begin(recorder, epochs=2)
    recorder.on_trial_complete(0, [], TRIAL)
    assert record_of(recorder).state == "finished"
    assert capsys.readouterr().out.count("MLflow does not answer") == 1
