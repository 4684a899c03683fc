"""The model that comes with `emlnet`, and weights stored in 16 bits."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import emlnet
from emlnet.__main__ import main
from emlnet.inference import package
from emlnet.inference.package import BUILTIN_FOLDER, CARD, MODEL, WEIGHTS
from emlnet.registry import model_sources


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return "photo.png"


def test_a_picture_alone_is_predicted_by_the_built_in_model(photo, capsys):
    assert main(["predict", photo, "--format", "npy"]) == 0
    assert "maps in maps: 1. NAME_smap.npy is the map of NAME" in capsys.readouterr().out
    saliency = np.load("maps/photo_smap.npy")
    assert saliency.shape == (120, 200)
    assert saliency.sum() == pytest.approx(1, abs=1e-4)
    for prediction in (emlnet.predict(photo), emlnet.load().predict(photo)):
        np.testing.assert_allclose(prediction.saliency, saliency, rtol=1e-4)


def test_it_is_small_and_its_card_says_what_it_was_made_of():
    assert (BUILTIN_FOLDER / WEIGHTS).stat().st_size < 8e6
    card = (BUILTIN_FOLDER / CARD).read_text()
    assert card.startswith("---\nlibrary_name: emlnet\nlicense: apache-2.0\n")
    assert package.file_digest(BUILTIN_FOLDER / WEIGHTS) in card
    for fact in ("osie+scene", "850 pictures", "full --preset builtin --data osie scene"):
        assert fact in card


@pytest.mark.parametrize("kept", [(), (MODEL, CARD)])
def test_an_installation_without_it_says_so(kept, photo, tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    for name in kept:
        shutil.copy(BUILTIN_FOLDER / name, tmp_path / "gone")
    monkeypatch.setattr(model_sources, "BUILTIN_FOLDER", tmp_path / "gone")
    assert main(["predict", photo]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the built-in model lacks ")
    assert "install the wheel again" in error


def test_weights_in_16_bits_are_loaded_into_32(make_encoder, tmp_path):
    model = make_encoder()
    package.save(tmp_path / "model", model)
    assert main(["export", str(tmp_path / "model"), "--half", "--out", str(tmp_path / "half")]) == 0
    stored, loaded = load_file(tmp_path / "half" / WEIGHTS), package.load(tmp_path / "half").model
    for name, value in loaded.state_dict().items():
        assert value.dtype == model.state_dict()[name].dtype
        torch.testing.assert_close(value, stored[name].to(value.dtype), rtol=0, atol=0)
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-4)
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.half}
