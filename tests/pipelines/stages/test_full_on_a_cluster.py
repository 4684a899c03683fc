"""All stages on two data sets whose images differ in size, by two workers on two nodes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from emlnet.data.maps import Kind
from emlnet.inference import package
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.training import checkpoint
from pipelines.config.options import DECODER_PLAN, Compute, Tracking
from pipelines.config.presets import find_preset
from pipelines.stages import full
from pipelines.stages.frozen_encoders import build_cache
from shards.build.writer import build
from tests.shards.conftest import Raw

TALL = (90, 60)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A head without CPUs and two nodes of one CPU each, simulated on this machine."""
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images that are taller than wide, four to train on."""
    raw = Raw(tmp_path_factory.mktemp("tall") / "portraits")
    for number in range(6):
        split = "train" if number < 4 else "val"
        raw.add(f"{split}/p{number}", [[[20, 30], [40, 60 + number]]], TALL, seed=number)
    return raw.path


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("kind", ["density", "eml"])
def test_full_trains_on_two_data_sets_and_scores_the_first(
    kind: Kind, address: str, raw: Path, tall: Path, tmp_path: Path
) -> None:
    command = replace(
        find_preset("smoke"),
        data=(raw, tall),
        mix=(0.6, 0.4),
        backbones=("tiny",),
        readout=kind,
        decoder_plan=replace(DECODER_PLAN, epochs=1, guard=()),
        compute=Compute(num_workers=2, address=address),
        tracking=Tracking(out=tmp_path / "run", tracking_uri=f"sqlite:///{tmp_path / 'm.db'}"),
    )
    report = full.run(command)
    assert len([node for node in ray.nodes() if node["Alive"]]) == 3
    for stage in ("encoder-0-tiny", "decoder"):
        folder = sorted((tmp_path / "run" / stage / "training").glob("checkpoint_2*"))[-1]
        # Each of the ranks left its own random state.
        assert len(checkpoint.read(folder)["random"]) == 2
    assert report["num_images"] == 3
    assert all(np.isfinite(value) for value in report["scores"]["decoder"].values())
    model = package.load(tmp_path / "run" / "decoder" / "package")
    assert [encoder.config.letterbox for encoder in model.encoders] == [kind == "density"]
    picture = next((tall / "images" / "val").iterdir())
    assert model.predict(picture).saliency.shape == TALL


def test_readouts_of_mixed_sizes_want_an_encoder_that_trained_on_them(
    data: Path, tall: Path, tmp_path: Path
) -> None:
    build(tall, tmp_path / "tall", progress=False)
    encoder = Encoder(EncoderConfig(backbone="tiny", weights="none", size=(48, 64)))
    with pytest.raises(ValueError, match="tiny was trained on pictures of one size: train it"):
        build_cache(tmp_path / "cache", (data, tmp_path / "tall"), ("train",), encoder)
