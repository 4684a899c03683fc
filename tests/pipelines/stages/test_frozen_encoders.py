"""Cached readouts equal the encoder's own, and are computed once."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from emlnet.data.batches import prepare_image
from emlnet.data.samples import collate
from emlnet.models.encoder import Encoder, EncoderConfig
from pipelines.stages import frozen_encoders
from pipelines.stages.frozen_encoders import Cache
from shards.read.reader import ShardReader

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(backbone="tiny", weights="none", size=(48, 64))).eval()


@pytest.fixture(scope="module")
def cache(
    data: Path, encoder: Encoder, local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("readouts") / "tiny"
    return frozen_encoders.build_cache(folder, (data,), ("train", "val"), encoder)


@pytest.mark.parametrize("flip", [False, True])
def test_a_cached_readout_is_the_encoders_own(
    cache: Path, data: Path, encoder: Encoder, flip: bool
) -> None:
    reader = ShardReader(data, "train")
    batch = collate([reader.decoded(7)], np.ones(1, np.float32), np.array([flip]))
    with torch.inference_mode():
        own = encoder.readouts(prepare_image(batch))
    cached = Cache(cache, "train", len(reader)).read([7], [flip])
    assert [tap.dtype for tap in cached] == [torch.float16] * 2
    for tap, expected in zip(cached, own, strict=True):
        assert torch.allclose(tap.float(), expected, rtol=2e-3, atol=2e-3)


def test_a_killed_build_computes_only_the_parts_that_are_missing(
    data: Path,
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(frozen_encoders, "SAMPLES_PER_FILE", 5)
    folder = frozen_encoders.build_cache(tmp_path / "key", (data,), ("train", "val"), encoder)
    (folder / "train-000005.safetensors").unlink()
    with pytest.raises(ValueError, match=r"train-000005\.safetensors is missing or truncated"):
        Cache(folder, "train", 12)
    kept = (folder / "train-000000.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    frozen_encoders.build_cache(folder, (data,), ("train", "val"), encoder)
    printed = capsys.readouterr().out
    assert "train: 5 images" in printed
    assert "val: already in" in printed
    assert (folder / "train-000000.safetensors").stat().st_mtime_ns == kept
    taps = Cache(folder, "train", 12).read([2, 11], [False, True])
    assert [tap.shape for tap in taps] == [(2, 1, 24, 32), (2, 1, 12, 16)]


def test_a_part_that_is_cut_short_is_named(cache: Path, tmp_path: Path) -> None:
    other = shutil.copytree(cache, tmp_path / "tiny")
    cut = other / "train-000000.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-000000\.safetensors is missing or truncated"):
        Cache(other, "train", 12)


def test_a_cache_holds_no_file_open(cache: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = [Cache(cache, "train", 12) for _ in range(20)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    assert len(opened[0].parts) >= 1


def test_the_key_follows_config_weights_and_data(encoder: Encoder) -> None:
    other = Encoder(EncoderConfig(backbone="tiny", weights="none", size=(96, 128)))
    keys = {
        frozen_encoders.cache_name(encoder, "data", "weights"),
        frozen_encoders.cache_name(encoder, "other data", "weights"),
        frozen_encoders.cache_name(encoder, "data", "other weights"),
        frozen_encoders.cache_name(other, "data", "weights"),
    }
    assert len(keys) == 4
    assert frozen_encoders.cache_name(encoder, "data", "weights") in keys
