"""Grids of photographs, ground truth, a model and its encoders."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emlnet.inference import package
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig
from pipelines.__main__ import main
from pipelines.commands.evaluating.map_grid import GridCommand
from pipelines.tracking import figures


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny encoders of other kinds, and a decoder."""
    kinds = ("density", "eml")
    encoders = [
        Encoder(EncoderConfig(backbone="tiny", weights="none", size=(48, 64), readout=kind))
        for kind in kinds
    ]
    folder = tmp_path_factory.mktemp("grid") / "model"
    return package.save(folder, EMLNet(encoders, DecoderConfig()).eval())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `figures.grid` is called with."""
    calls: list[Any] = []
    grid = figures.grid
    monkeypatch.setattr(figures, "grid", lambda *given: calls.extend(given) or grid(*given))
    return calls


MAPS = ["model", "average of encoders", "encoder tiny", "encoder tiny (2)"]


def test_a_split_shows_truth_decoder_and_each_encoder(
    model: Path, data: Path, tmp_path: Path, drawn: list[Any]
) -> None:
    out = tmp_path / "new" / "grid.png"
    words = ["grid", "--model", str(model), "--data", str(data), "--num", "2", "--out", str(out)]
    assert main(words) == 0
    rows, columns, title = drawn
    assert columns == ["photograph", "ground truth", *MAPS]
    assert [name.split("/")[0] for name, _ in rows] == ["val", "val"]
    assert title == f"maps of {model}"
    assert Image.open(out).width > Image.open(out).height


def test_a_picture_without_gaze_shows_no_truth(
    model: Path, tmp_path: Path, drawn: list[Any]
) -> None:
    Image.fromarray(np.zeros((50, 70, 3), np.uint8)).save(tmp_path / "black.png")
    words = ["grid", "--model", str(model), "--pictures", str(tmp_path / "black.png")]
    assert main([*words, "--out", str(tmp_path / "grid.png")]) == 0
    ((name, pictures),), columns, _ = drawn
    assert (name, columns) == ("black.png", ["photograph", *MAPS])
    assert {picture.shape[:2] for picture in pictures} == {(50, 70)}


def test_pictures_and_shards_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="name --pictures, or shards"):
        GridCommand(model="m")
    with pytest.raises(ValueError, match="name --pictures, or shards"):
        GridCommand(model="m", data=Path("d"), pictures=(Path("p"),))
