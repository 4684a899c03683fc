"""Commands that are killed, told to end, or lose their MLflow server."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient

from pipelines import full
from pipelines.config import Tracking
from pipelines.presets import find_preset

ROOT = Path(__file__).parents[3]


@contextmanager
def started(words: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, which is gone afterwards."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with log.open("w") as out:
        process = subprocess.Popen(
            words, stdout=out, stderr=out, env=environment, start_new_session=True, text=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "pipelines", *map(str, words)]


def wait_for(text: str, log: Path, process: subprocess.Popen[str], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def runs_of(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    found: list[Any] = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return found


def test_a_killed_command_finishes_the_same_job_when_it_is_given_again(
    raw: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = command("full", "--preset", "smoke", "--data", raw, "--out", tmp_path / "run")
    words += ["--tracking-uri", uri, "--decoder-plan.epochs", "3"]
    with started(words, tmp_path / "first.log") as process:
        wait_for("decoder: epoch 1/3", tmp_path / "first.log", process)
        process.kill()
    with started(words, tmp_path / "second.log") as process:
        assert process.wait(timeout=240) == 0, (tmp_path / "second.log").read_text()
    told = (tmp_path / "second.log").read_text()
    assert told.count("done before") == 2
    assert "decoder: resumes after epoch" in told
    found = runs_of(uri)
    assert sorted(run.data.tags["stage"] for run in found) == [
        "decoder",
        "encoder",
        "encoder",
        "full",
    ]
    assert {run.info.status for run in found} == {"FINISHED"}
    (decoder,) = [run for run in found if run.data.tags["stage"] == "decoder"]
    history = MlflowClient(uri).get_metric_history(decoder.info.run_id, "val_kl")
    assert [entry.step for entry in history] == [0, 1, 2, 3]


def test_a_command_that_is_told_to_end_saves_and_goes_on_from_there(
    data: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = command("encoder", "--data", data, "--backbone", "tiny", "--weights", "none")
    words += ["--size", "96", "128", "--batch-size", "2", "--epochs", "30"]
    words += ["--out", str(tmp_path / "run"), "--tracking-uri", uri]
    with started(words, tmp_path / "first.log") as process:
        wait_for("epoch 2/30", tmp_path / "first.log", process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143, (tmp_path / "first.log").read_text()
    assert (
        "stopped as asked; the same command goes on from there"
        in (tmp_path / "first.log").read_text()
    )
    (run,) = runs_of(uri)
    assert run.info.status == "KILLED"
    with started(words, tmp_path / "second.log") as process:
        assert process.wait(timeout=240) == 0, (tmp_path / "second.log").read_text()
    assert "encoder tiny: resumes after epoch" in (tmp_path / "second.log").read_text()
    (run,) = runs_of(uri)
    assert run.info.status == "FINISHED"
    history = MlflowClient(uri).get_metric_history(run.info.run_id, "val_kl")
    assert [entry.step for entry in history] == list(range(1, 31))


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """A tracking server over a SQLite file, artifacts through it."""
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    words += ["--artifacts-destination", str(folder / "artifacts")]
    with started(words, folder / "server.log") as process:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline
            try:
                requests.get(f"http://127.0.0.1:{port}/health", timeout=5).raise_for_status()
                break
            except requests.RequestException:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"


@pytest.mark.usefixtures("local_ray")
def test_training_goes_on_without_its_mlflow_server_which_gets_all_of_it_later(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tracking = Tracking(out=tmp_path / "run", tracking_uri=f"http://127.0.0.1:{port}")
    asked = replace(find_preset("smoke"), data=raw, tracking=tracking)
    monkeypatch.setattr(full, "SECONDS_FOR_MLFLOW", 1)
    train, serving = full.train, ExitStack()

    def train_without(*arguments: Any) -> Any:
        serving.close()
        return train(*arguments)

    serving.enter_context(mlflow_server(tmp_path, port))
    monkeypatch.setattr(full, "train", train_without)
    with pytest.raises(RuntimeError, match=r"encoder tiny, encoder tiny \(2\), decoder could not"):
        full.run(asked)
    told = capsys.readouterr().out
    assert "encoder tiny: MLflow does not answer" in told
    monkeypatch.setattr(full, "train", train)
    with mlflow_server(tmp_path, port) as uri:
        report = full.run(asked)
        assert capsys.readouterr().out.count("done before") == 3
        found = runs_of(uri)
        assert {run.info.status for run in found} == {"FINISHED"}
        assert len(found) == 4
        for run in found:
            history = MlflowClient(uri).get_metric_history(run.info.run_id, "epoch_seconds")
            first = 0 if run.data.tags["stage"] == "decoder" else 1
            expected = [] if run.data.tags["stage"] == "full" else list(range(first, 2))
            assert [entry.step for entry in history] == expected
        assert report["version"] == 1
