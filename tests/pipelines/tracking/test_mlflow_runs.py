"""What reaches MLflow."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from emlnet.registry.mlflow_registry import connect
from pipelines.config.identity import digest
from pipelines.tracking.epoch_logger import EpochLogger
from pipelines.tracking.mlflow_runs import RUN_ID, Tracker
from shards.files.manifest import Manifest

REPORT = {"epoch": 3, "train_loss": {}, "scores": {"kl": 0.5}, "seconds": 2.0, "skipped": 0}


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    store = tmp_path_factory.mktemp("store") / "deep" / "mlflow.db"
    return Tracker.open(f"sqlite:///{store}", "osie")


def test_artifacts_of_a_sqlite_store_lie_beside_it(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "note.txt").write_text("hello")
    with tracker.run(tmp_path / "run", "a", params={}, tags={}) as run_id:
        tracker.log_file(run_id, tmp_path / "note.txt")
    store = Path(tracker.uri.removeprefix("sqlite:///"))
    assert list((store.parent / "mlartifacts" / "osie").rglob("note.txt"))


def test_work_that_is_resumed_keeps_its_run(tracker: Tracker, tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="stopped"),
        tracker.run(tmp_path, "a", params={"lr": 0.1}, tags={"stage": "encoder"}) as first,
    ):
        raise RuntimeError("stopped")
    assert tracker.client.get_run(first).info.status == "FAILED"
    with tracker.run(tmp_path, "a", params={"lr": 0.1}, tags={"stage": "encoder"}) as second:
        assert tracker.client.get_run(second).info.status == "RUNNING"
    assert second == first
    run = tracker.client.get_run(first)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1"}


def test_a_report_becomes_metrics_at_its_epoch(tracker: Tracker, tmp_path: Path) -> None:
    with tracker.run(tmp_path, "a", params={}, tags={}) as run_id:
        logger = EpochLogger(tracker, run_id)
        report = {**REPORT, "train_loss": {"total": 1.5}, "skipped": 1, "unread": 3}
        logger.after_report(None, [{"report": report}], None)
        logger.after_report(None, [{"step": 10}], None)
    (entry,) = tracker.client.get_metric_history(run_id, "val_kl")
    assert (entry.step, entry.value) == (3, 0.5)
    metrics = tracker.client.get_run(run_id).data.metrics
    assert (metrics["train_total"], metrics["train_skipped"]) == (1.5, 1)
    assert metrics["images_unread"] == 3


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(ValueError, match=r"no MLflow server answers at http://127\.0\.0\.1:9"):
        Tracker.open("http://127.0.0.1:9", "osie")


def test_a_run_says_what_it_ran_on(tracker: Tracker, data: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(data)
    tags = {"stage": "encoder", "mlflow.source.name": "emlnet"}
    with tracker.run(tmp_path, "a", params={}, tags=tags, data=(data, manifest)) as run_id:
        pass
    run = tracker.client.get_run(run_id)
    assert "CPU" in run.data.tags["host"]
    assert run.data.tags["git_dirty"] in ("True", "False")
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == manifest.name
    assert manifest.digest.startswith(given.dataset.digest)
    assert json.loads(given.dataset.profile)["train pictures"] == 12
    assert [tag.value for tag in given.tags] == ["train, val"]


def test_a_run_that_fails_says_why(tracker: Tracker, tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no cake"),
        tracker.run(tmp_path, "a", params={}, tags={}) as run_id,
    ):
        raise ValueError("no cake")
    tags = tracker.client.get_run(run_id).data.tags
    assert tags["mlflow.note.content"] == "Failed: ValueError: no cake"


def test_the_pictures_of_an_epoch_are_shown_at_its_number(tracker: Tracker, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, "JPEG")
    with tracker.run(tmp_path, "a", params={}, tags={}) as run_id:
        drawn = base64.b64encode(file.getvalue()).decode()
        metrics = [{"report": REPORT, "pictures": drawn}]
        EpochLogger(tracker, run_id).after_report(None, metrics, None)
    (shown,) = tracker.client.list_artifacts(run_id, "pictures")
    assert shown.path == "pictures/epoch-03.jpg"
    path = tracker.client.download_artifacts(run_id, shown.path, str(tmp_path))
    assert Image.open(path).size == (30, 20)


def test_epochs_that_a_store_did_not_get_are_sent_at_the_end(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with tracker.run(tmp_path, "a", params={}, tags={}) as run_id:
        logger = EpochLogger(tracker, run_id)
        reports = [{**REPORT, "epoch": epoch} for epoch in (1, 2, 3)]
        with monkeypatch.context() as away:
            away.setattr(Tracker, "client", property(lambda self: connect("http://127.0.0.1:9")))
            for report in reports[:2]:
                logger.after_report(None, [{"report": report}], None)
            assert "the scores of epoch 2 are sent later" in capsys.readouterr().out
        logger.after_report(None, [{"report": reports[2]}], None)
        tracker.log_missing_epochs(run_id, reports)
    history = tracker.client.get_metric_history(run_id, "val_kl")
    assert sorted(entry.step for entry in history) == [1, 2, 3]


def test_work_that_does_not_need_a_store_runs_without(
    tracker: Tracker, tmp_path: Path, capsys: Any
) -> None:
    away = replace(tracker, uri="http://127.0.0.1:9")
    with away.run_if_there(tmp_path, "encoder tiny", params={}, tags={}) as run_id:
        assert run_id == ""
    assert "encoder tiny: MLflow does not answer" in capsys.readouterr().out
    assert not away.wait(seconds=0)
    assert tracker.wait(seconds=0)


def test_an_unreachable_store_does_not_mean_that_the_run_is_missing(
    tracker: Tracker, tmp_path: Path
) -> None:
    with tracker.run(tmp_path, "a", params={}, tags={}) as run_id:
        known = json.loads((tmp_path / RUN_ID).read_text())
    assert known["run_id"] == run_id
    away = replace(tracker, uri="http://127.0.0.1:9")
    (tmp_path / RUN_ID).write_text(json.dumps({**known, "store": digest(uri=away.uri)}))
    with pytest.raises(ValueError, match="no MLflow server"):
        away.begin(tmp_path, "a", params={}, tags={})
