"""`emlnet VERB`: what each command prints, and how it fails."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from emlnet.__main__ import COMMANDS, main
from emlnet.inference import package


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory, monkeypatch):
    """Commands run in a folder of their own, without a store named by a variable."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize("how", ["alias", "version", "run"])
def test_pull_takes_an_alias_a_version_or_a_run(store, tmp_path, how, capsys):
    value = {"alias": "challenger", "version": "2", "run": store.runs[2]}[how]
    assert main(["pull", str(tmp_path / "m"), f"--{how}", value, "--tracking-uri", store.uri]) == 0
    assert f"pulled model 2 into {tmp_path / 'm'}" in capsys.readouterr().out
    assert package.load(tmp_path / "m").about["name"] == "model 2"


def test_pull_and_predict_need_only_the_variable_and_then_the_folder(store, tmp_path, monkeypatch):
    Image.new("RGB", (60, 40)).save(tmp_path / "wide.jpg")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert main(["pull", str(tmp_path / "m")]) == 0
    for model in ("models:/emlnet@champion", str(tmp_path / "m")):
        words = ["predict", model, str(tmp_path / "wide.jpg"), "--out", str(tmp_path / "out")]
        assert main([*words, "--format", "npy"]) == 0
        assert np.load(tmp_path / "out" / "wide_smap.npy").shape == (40, 60)
        (tmp_path / "out" / "wide_smap.npy").unlink()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///gone.db")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pull m --tracking-uri sqlite:///none.db", "error: no MLflow store at "),
        ("predict nowhere a.jpg --out out", "error: no model and no picture at 'nowhere'"),
        ("predict runs:/nowhere a.jpg", "error: no model at 'runs:/nowhere'"),
        ("export nowhere", "error: name one format: --onnx or --half"),
        ("export --half --onnx", "error: name one format: --onnx or --half"),
        ("import-reference res_imagenet.pth", "error: name the checkpoints, and then the folder"),
        ("predict builtin a.jpg --device cuda:99", "error: device 'cuda:99' is not available"),
    ],
)
def test_an_error_is_one_line_and_exit_code_one(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert error.count("\n") == 1


@pytest.mark.parametrize("verb", list(COMMANDS))
def test_help_explains_every_flag(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for flag in {
        "pull": ("--alias", "--from", "--sha256"),
        "predict": ("--same-scale", "--figure"),
    }.get(verb, ()):
        assert flag in shown


def test_the_first_line_comes_before_torch_is_imported():
    words = [sys.executable, "-m", "emlnet", "predict", "runs:/nowhere", "a.jpg"]
    began = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"loading the model\n"
        waited = time.monotonic() - began
        process.stdout.read()
    assert waited < (time.monotonic() - began) / 2
