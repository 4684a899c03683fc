"""What reaches MLflow."""

from pathlib import Path

import pytest

from pipelines.tracking import EpochLogger, Tracker


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    store = tmp_path_factory.mktemp("store") / "deep" / "mlflow.db"
    return Tracker.open(f"sqlite:///{store}", "osie")


def test_artifacts_of_a_sqlite_store_lie_beside_it(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "note.txt").write_text("hello")
    with tracker.run(tmp_path / "run", "a", params={}, tags={}) as run_id:
        tracker.file(run_id, tmp_path / "note.txt")
    store = Path(tracker.uri.removeprefix("sqlite:///"))
    assert list((store.parent / "mlartifacts" / "osie").rglob("note.txt"))


def test_work_that_goes_on_keeps_its_run(tracker: Tracker, tmp_path: Path) -> None:
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
        report = {"epoch": 3, "train_loss": {"total": 1.5}, "scores": {"kl": 0.5}, "seconds": 2.0}
        logger.after_report(None, [{"report": report}], None)
        logger.after_report(None, [{"step": 10}], None)
    (entry,) = tracker.client.get_metric_history(run_id, "val_kl")
    assert (entry.step, entry.value) == (3, 0.5)
    assert tracker.client.get_run(run_id).data.metrics["train_total"] == 1.5


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(ValueError, match=r"no MLflow server answers at http://127\.0\.0\.1:9"):
        Tracker.open("http://127.0.0.1:9", "osie")
