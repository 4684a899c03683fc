"""What a plain installation can do, and what it says of the rest."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from emlnet.__main__ import main
from emlnet.backbones import build_backbone
from emlnet.inference import package

NOT_IN_THE_WHEEL = (
    "alembic", "gradio", "matplotlib", "mlflow", "onnx", "onnxruntime", "pandas",
    "pretrainedmodels", "ray", "requests", "scipy", "sqlalchemy", "webdataset",
)  # fmt: skip


@pytest.fixture
def model(make_encoder, tmp_path):
    return package.save(tmp_path / "model", make_encoder())


def test_predicting_needs_no_extra(model, tmp_path):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "photo.jpg")
    words = ["predict", str(model), str(tmp_path / "photo.jpg"), "--out", str(tmp_path / "out")]
    script = "import sys\n"
    script += f"sys.modules.update(dict.fromkeys({NOT_IN_THE_WHEEL}))\n"
    script += f"from emlnet.__main__ import main\nsys.exit(main({words} + ['--device', 'cpu']))"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "out" / "photo_smap.png").is_file()


@pytest.mark.parametrize(
    ("module", "extra", "words"),
    [
        ("mlflow", "registry", ["pull", "m", "--tracking-uri", "sqlite:///mlflow.db"]),
        ("sqlalchemy", "registry", ["pull", "m", "--tracking-uri", "sqlite:///mlflow.db"]),
        ("mlflow", "registry", ["predict", "models:/emlnet@champion", "p.jpg", "--out", "o"]),
        ("gradio", "app", ["app", "MODEL", "--device", "cpu"]),
        ("onnx", "onnx", ["export", "MODEL", "--onnx"]),
        ("onnxruntime", "onnx", ["export", "MODEL", "--onnx"]),
    ],
)
def test_a_missing_extra_is_named_with_the_pip_line(
    module, extra, words, model, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(model.parent)
    assert main([str(model) if word == "MODEL" else word for word in words]) == 1
    error = capsys.readouterr().err
    assert module in error
    assert f'pip install "emlnet[{extra}]"' in error


def test_a_backbone_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pretrainedmodels", None)
    with pytest.raises(ValueError, match=r"emlnet\[pretrainedmodels\]"):
        build_backbone("dpn92", "none")
