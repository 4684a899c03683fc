"""The whole pipeline on a few pictures, from raw folder to a pulled model that predicts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from emlnet.__main__ import main as emlnet_main
from emlnet.registry import mlflow_registry
from pipelines.commands.evaluating import evaluate_model
from pipelines.config.options import FullCommand, Tracking
from pipelines.config.presets import find_preset
from pipelines.evaluation import score_table
from pipelines.evaluation.html_report import REPORT
from pipelines.evaluation.sources import BASELINES
from pipelines.stages import full
from pipelines.tracking.mlflow_runs import Tracker

Report = dict[str, Any]

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def command(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> FullCommand:
    folder = tmp_path_factory.mktemp("full")
    tracking = Tracking(out=folder / "run", tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    return replace(find_preset("smoke"), data=(raw,), tracking=tracking)


@pytest.fixture(scope="module")
def report(command: FullCommand, local_ray: None) -> Report:
    return full.run(command)


def test_every_model_is_scored(report: Report) -> None:
    scores = report["scores"]
    models = ["decoder", "average of encoders", "encoder tiny", "encoder tiny (2)"]
    assert list(scores) == [*models, *BASELINES]
    assert all(np.isfinite(value) for row in scores.values() for value in row.values())
    assert scores["centre prior"]["tuebingen_ig"] == pytest.approx(0, abs=1e-9)


def test_the_best_is_champion_and_pulls_and_predicts(
    command: FullCommand, report: Report, raw: Path, tmp_path: Path
) -> None:
    uri = command.tracking.uri
    folder = tmp_path / "model"
    assert emlnet_main(["pull", str(folder), "--tracking-uri", uri]) == 0
    held = mlflow_registry.find_version(MlflowClient(uri))
    assert held.tags["promotion"] == "champion: the first"
    picture = next((raw / "images" / "val").iterdir())
    out = tmp_path / "maps"
    words = ["predict", str(folder), str(picture), "--out", str(out), "--format", "npy"]
    assert emlnet_main(words) == 0
    density = np.load(out / f"{picture.stem}_smap.npy")
    assert density.shape == (480, 640)
    assert density.sum() == pytest.approx(1, abs=1e-3)


def test_evaluating_the_registered_model_gives_the_scores_again(
    command: FullCommand, report: Report, tmp_path: Path
) -> None:
    assert command.tracking.out
    scores = evaluate_model.run(
        evaluate_model.EvaluateCommand(
            data=command.tracking.out / "shards",
            model="models:/emlnet@champion",
            flip=command.flip_scores,
            out=tmp_path / "scores",
            json=tmp_path / "a" / "table.json",
            tracking=command.tracking,
        )
    )
    means = scores.means
    client = MlflowClient(command.tracking.uri)
    run_id = client.get_model_version_by_alias("emlnet", "champion").run_id
    logged = client.get_metric_history(run_id, "scores/mit_kl")
    assert [entry.value for entry in logged] == pytest.approx([means["model"]["mit_kl"]] * 2)
    assert means["model"] == pytest.approx(report["scores"][report["best"]], abs=1e-6)
    written = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert written["scores"]["model"] == pytest.approx(means["model"])
    assert json.loads((tmp_path / "a" / "table.json").read_text()) == written
    assert score_table.read_parquet(tmp_path / "scores" / "scores.parquet").models == scores.models


def test_runs_are_one_parent_and_a_child_per_stage(command: FullCommand, report: Report) -> None:
    client = MlflowClient(command.tracking.uri)
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    found = client.search_runs([experiment.experiment_id])
    stages = sorted(run.data.tags["stage"] for run in found)
    assert stages == ["decoder", "encoder", "encoder", "full"]
    assert {run.info.status for run in found} == {"FINISHED"}
    (parent,) = [run for run in found if run.data.tags["stage"] == "full"]
    for run in found:
        if run is not parent:
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert "scores/mit_nss" in run.data.metrics
        if run.data.tags["stage"] in ("encoder", "decoder"):
            names = {file.path for file in client.list_artifacts(run.info.run_id)}
            assert {"curves.png", "pictures.png", "package", "pictures"} <= names
            history = client.get_metric_history(run.info.run_id, "val_kl")
            steps = [entry.step for entry in history]
            assert steps == sorted(set(steps))
            assert steps
    assert parent.data.params["plan.epochs"] == "1"
    assert len(parent.data.tags["data_digest"]) == 64
    assert parent.info.run_name.startswith("smoke 20")
    # The registered model is on the parent's page; registering it prolongs no training.
    (shown,) = parent.outputs.model_outputs
    version = client.get_model_version("emlnet", "1")
    assert version.source == f"models:/{shown.model_id}"
    trained = client.get_run(version.run_id).info
    assert trained.end_time < version.creation_timestamp
    assert "Best on val" in parent.data.tags["mlflow.note.content"]


def test_the_same_command_again_trains_nothing(
    command: FullCommand, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    assert full.run(command) == report
    told = capsys.readouterr().out
    assert "done before" in told
    assert f"registered emlnet version 1, now champion (the first): {report['best']}" in told
    assert f"emlnet pull FOLDER --tracking-uri {command.tracking.uri}" in told
    assert f"on the pages of `python -m pipelines ui --tracking-uri {command.tracking.uri}`" in told
    assert Path(report["report"]).is_file()
    assert "val, mirrored" in told
    versions = MlflowClient(command.tracking.uri).search_model_versions("name='emlnet'")
    assert len(versions) == 1


def test_a_run_whose_report_did_not_reach_mlflow_is_not_done_and_finds_its_stages(
    command: FullCommand,
    report: Report,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert command.tracking.out
    done = command.tracking.out / full.DONE
    done.unlink()

    def refuse(tracker: Tracker, run_id: str, path: Path, folder: str | None = None) -> None:
        if path.name == REPORT:
            raise OSError("the server went away")

    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "log_file", refuse)
        with pytest.raises(OSError, match="went away"):
            full.run(command)
    assert not done.exists()
    capsys.readouterr()
    again = full.run(command)
    assert done.exists()
    assert again["run_id"] == report["run_id"]
    assert again["scores"] == report["scores"]
    assert (again["version"], again["promotion"]) == (1, "champion: the first")
    assert capsys.readouterr().out.count("done before") == 3
