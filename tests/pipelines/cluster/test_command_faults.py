"""Commands that are killed, told to end, or lose their MLflow server."""

import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.config.options import Tracking
from pipelines.config.presets import find_preset
from pipelines.stages import full
from tests.pipelines.cluster.commands import command, free_port, mlflow_server, started, wait_for
from tests.pipelines.cluster.faults import last_checkpoint, wait_until


def runs_of(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    found: list[Any] = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return found


def test_a_command_that_is_stopped_and_killed_finishes_the_same_job_when_it_is_given_again(
    raw: Path, tmp_path: Path
) -> None:
    uri, log = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "log"
    words = command("full", "--preset", "smoke", "--data", raw, "--out", tmp_path / "run")
    words += ["--backbones", "tiny", "--epochs", "10", "--decoder-plan.epochs", "8"]
    words += ["--tracking-uri", uri]
    for text, number, code in (
        ("encoder tiny: epoch 1/10", signal.SIGTERM, 143),
        ("encoder tiny: resumes after epoch", signal.SIGINT, 130),
    ):
        with started(words, log) as process:
            wait_for(text, log, process)
            process.send_signal(number)
            assert process.wait(timeout=60) == code, log.read_text()
        assert "stopped on request; run the same command to resume" in log.read_text()
        assert {run.info.status for run in runs_of(uri)} == {"KILLED"}
    with started(words, log) as process:
        wait_for("decoder: epoch 2/8", log, process)
        decoder = tmp_path / "run" / "decoder" / "training"
        wait_until(lambda: last_checkpoint(decoder)[0] >= 2, "no checkpoint of the decoder")
        process.kill()
    with started(words, log) as process:
        assert process.wait(timeout=240) == 0, log.read_text()
    assert log.read_text().count("done before") == 1
    assert "decoder: resumes after epoch" in log.read_text()
    runs = {run.data.tags["stage"]: run.info for run in runs_of(uri)}
    assert sorted(runs) == ["decoder", "encoder", "full"]
    assert {info.status for info in runs.values()} == {"FINISHED"}
    for stage, epochs in (("encoder", range(1, 11)), ("decoder", range(9))):
        history = MlflowClient(uri).get_metric_history(runs[stage].run_id, "val_kl")
        assert [entry.step for entry in history] == list(epochs)


@pytest.mark.usefixtures("local_ray")
def test_training_goes_on_without_its_mlflow_server_which_gets_all_of_it_later(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    port = free_port()
    tracking = Tracking(out=tmp_path / "run", tracking_uri=f"http://127.0.0.1:{port}")
    smoke = replace(find_preset("smoke"), backbones=("tiny",))
    asked = replace(smoke, data=(raw,), tracking=tracking)
    monkeypatch.setattr(full, "SECONDS_FOR_MLFLOW", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # It is away for good.
    finetune, serving = full.finetune, ExitStack()

    def finetune_without(*arguments: Any) -> Any:
        serving.close()
        return finetune(*arguments)

    serving.enter_context(mlflow_server(tmp_path, port))
    monkeypatch.setattr(full, "finetune", finetune_without)
    with pytest.raises(RuntimeError, match="could not send encoder tiny, decoder"):
        full.run(asked)
    told = capsys.readouterr().out
    assert "encoder tiny: MLflow does not answer" in told
    monkeypatch.setattr(full, "finetune", finetune)
    with mlflow_server(tmp_path, port) as uri:
        report = full.run(asked)
        assert capsys.readouterr().out.count("done before") == 2
        found = runs_of(uri)
        assert {run.info.status for run in found} == {"FINISHED"}
        epochs = {"encoder": [1], "decoder": [0, 1], "full": []}
        assert sorted(run.data.tags["stage"] for run in found) == sorted(epochs)
        for run in found:
            history = MlflowClient(uri).get_metric_history(run.info.run_id, "epoch_seconds")
            assert [entry.step for entry in history] == epochs[run.data.tags["stage"]]
        assert report["version"] == 1
