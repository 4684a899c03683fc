"""All stages on two data sets whose pictures differ in size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emlnet.data.maps import Kind
from emlnet.inference import package
from emlnet.models.encoder import Encoder, EncoderConfig
from pipelines.config.options import DECODER_PLAN, Tracking
from pipelines.config.presets import find_preset
from pipelines.stages import full, readout_cache
from shards.build.writer import build
from tests.shards.conftest import Raw

TALL = (90, 60)


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures that are taller than wide, four to train on."""
    raw = Raw(tmp_path_factory.mktemp("tall") / "portraits")
    for number in range(6):
        split = "train" if number < 4 else "val"
        raw.add(f"{split}/p{number}", [[[20, 30], [40, 60 + number]]], TALL, seed=number)
    return raw.path


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("kind", ["density", "eml"])
def test_full_trains_on_two_data_sets_and_scores_the_first(
    kind: Kind, raw: Path, tall: Path, tmp_path: Path
) -> None:
    command = replace(
        find_preset("smoke"),
        data=(raw, tall),
        mix=(0.6, 0.4),
        readout=kind,
        decoder_plan=replace(DECODER_PLAN, epochs=1, guard=()),
        tracking=Tracking(out=tmp_path / "run", tracking_uri=f"sqlite:///{tmp_path / 'm.db'}"),
    )
    report = full.run(command)
    assert report["num_images"] == 3
    assert all(np.isfinite(value) for value in report["scores"]["decoder"].values())
    model = package.load(tmp_path / "run" / "decoder" / "package")
    assert [encoder.config.letterbox for encoder in model.encoders] == [kind == "density"] * 2
    picture = next((tall / "images" / "val").iterdir())
    assert model.predict(picture).saliency.shape == TALL


def test_readouts_of_mixed_sizes_want_an_encoder_that_trained_on_them(
    data: Path, tall: Path, tmp_path: Path
) -> None:
    build(tall, tmp_path / "tall", progress=False)
    encoder = Encoder(EncoderConfig(backbone="tiny", weights="none", size=(48, 64)))
    with pytest.raises(ValueError, match="tiny was trained on pictures of one size: train it on"):
        readout_cache.build(tmp_path / "cache", (data, tmp_path / "tall"), ("train",), encoder)
