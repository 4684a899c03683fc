"""What public boards take, read back as they would."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from emlnet.data.maps import gaussian_blur
from emlnet.inference import package
from emlnet.models.encoder import Encoder, EncoderConfig
from pipelines.__main__ import main
from tests.emlnet import single_metrics

NAMES = ("Action/001.jpg", "Action/002.png", "Random/001.jpeg")
SIZES = ((60, 80), (48, 64), (50, 70))
REFEREE = os.environ.get("EMLNET_REFEREE")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(backbone="tiny", weights="none", size=(48, 64)))
    return package.save(tmp_path_factory.mktemp("model") / "package", encoder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, size in zip(NAMES, SIZES, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        noise = torch.from_numpy(random.random((1, 3, *size))).float()
        smooth = gaussian_blur(noise, 4.0, 12, "replicate")[0].permute(1, 2, 0).numpy()
        scaled = (smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255
        Image.fromarray(scaled.round().astype(np.uint8)).save(folder / name)
    return folder


def export(model: Path, pictures: Path, out: Path, board: str) -> int:
    return main(["export-board", str(model), str(pictures), "--out", str(out), "--board", board])


def test_the_hdf5_file_holds_the_predicted_log_density_of_each_picture(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    assert export(model, pictures, tmp_path / "maps.h5", "mit") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["maps.h5"]
    with h5py.File(tmp_path / "maps.h5") as file:
        for name, size in zip(NAMES, SIZES, strict=True):
            values = np.asarray(file[name])
            predicted = package.load(model).predict(pictures / name).log_density
            assert values.shape == size
            assert values == pytest.approx(predicted, abs=1e-5)
            assert np.exp(values.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.skipif(not REFEREE, reason="EMLNET_REFEREE names no Python with pysaliency")
def test_pysaliency_reads_the_file_and_gives_the_same_scores(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    export(model, pictures, tmp_path / "maps.h5", "mit")
    script = """
import sys, numpy as np, pysaliency
from pysaliency.precomputed_models import HDF5Model, HDF5SaliencyMapModel
names = sys.argv[3:]
stimuli = pysaliency.FileStimuli([f"{sys.argv[1]}/{name}" for name in names])
model, maps = (kind(stimuli, sys.argv[2]) for kind in (HDF5Model, HDF5SaliencyMapModel))
xs, ys = np.array([10, 20, 30]), np.array([12, 24, 36])
fixations = pysaliency.Fixations.create_without_history(xs, ys, np.arange(3))
uniform = pysaliency.UniformModel()
print(*model.information_gains(stimuli, fixations, uniform), *maps.AUCs(stimuli, fixations))
"""
    assert REFEREE
    words = [REFEREE, "-W", "ignore", "-c", script, str(pictures), str(tmp_path / "maps.h5")]
    answer = subprocess.run([*words, *NAMES], capture_output=True, text=True, check=True)
    expected = [float(word) for word in answer.stdout.split()]
    ours: list[float] = []
    looks = ((10, 12), (20, 24), (30, 36))
    with h5py.File(tmp_path / "maps.h5") as file:
        maps = [torch.from_numpy(np.asarray(file[name]))[None, None] for name in NAMES]
    for metric in (single_metrics.ig, lambda p, f, _: single_metrics.auc(p, f)):
        for found, (x, y) in zip(maps, looks, strict=True):
            fixations = torch.zeros_like(found)
            fixations[0, 0, y, x] = 1
            uniform = torch.full_like(found, -np.log(found.numel()))
            ours.append(metric(found, fixations, uniform).item())
    assert ours == pytest.approx(expected, abs=1e-6)


def test_salicons_pngs_are_8_bit_480_by_640_and_named_as_the_pictures(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    assert export(model, pictures, tmp_path / "maps", "salicon") == 0
    found = sorted(path.relative_to(tmp_path / "maps") for path in (tmp_path / "maps").rglob("*.*"))
    assert [str(path) for path in found] == ["Action/001.png", "Action/002.png", "Random/001.png"]
    for path in found:
        image = Image.open(tmp_path / "maps" / path)
        assert (image.mode, image.size) == ("L", (640, 480))
        assert image.getextrema() == (0, 255)


def test_an_export_is_not_written_over_another(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "maps.h5").touch()
    assert export(model, pictures, tmp_path / "maps.h5", "mit") == 1
    assert "maps.h5 exists; name a new file" in capsys.readouterr().err
    assert export(model, pictures, tmp_path / "maps.zip", "mit") == 1
    assert "must end in .h5 or .hdf5" in capsys.readouterr().err


def test_two_pictures_of_one_name_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "a.png").touch()
    assert export(model, tmp_path, tmp_path / "maps.h5", "mit") == 1
    assert "would overwrite each other's maps: a" in capsys.readouterr().err
