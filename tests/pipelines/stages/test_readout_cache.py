"""Cached readouts equal the encoder's own, and are computed once."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from emlnet.data.batches import prepare_image
from emlnet.data.samples import collate
from emlnet.models.encoder import Encoder, EncoderConfig
from pipelines.stages import readout_cache
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
    return readout_cache.build(folder, (data,), ("train", "val"), encoder)


@pytest.mark.parametrize("flip", [False, True])
def test_a_cached_readout_is_the_encoders_own(
    cache: Path, data: Path, encoder: Encoder, flip: bool
) -> None:
    reader = ShardReader(data, "train")
    batch = collate([reader.decoded(7)], np.ones(1, np.float32), np.array([flip]))
    with torch.inference_mode():
        own = encoder.readouts(prepare_image(batch))
    cached = readout_cache.Cache.open(cache, "train").read([7], [flip])
    assert [tap.dtype for tap in cached] == [torch.float16] * 2
    for tap, expected in zip(cached, own, strict=True):
        assert torch.allclose(tap.float(), expected, rtol=2e-3, atol=2e-3)


def test_a_killed_build_computes_only_what_is_missing(
    cache: Path, data: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "val.json").unlink()
    (cache / "val-000000.safetensors").unlink()
    with pytest.raises(ValueError, match="no complete readouts of split 'val'"):
        readout_cache.Cache.open(cache, "val")
    readout_cache.build(cache, (data,), ("train", "val"), encoder)
    (tap, _) = readout_cache.Cache.open(cache, "val").read([0, 2], [False, True])
    assert tap.shape == (2, 1, 24, 32)
    printed = capsys.readouterr().out
    assert "val: 3 images" in printed
    assert "train" not in printed


def test_parts_that_a_killed_build_finished_are_kept(
    data: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readout_cache, "PART", 5)
    folder = readout_cache.build(tmp_path / "key", (data,), ("train",), encoder)
    (folder / "train.json").unlink()
    (folder / "train-000005.safetensors").unlink()
    kept = (folder / "train-000000.safetensors").stat().st_mtime_ns
    readout_cache.build(folder, (data,), ("train",), encoder)
    assert (folder / "train-000000.safetensors").stat().st_mtime_ns == kept
    assert readout_cache.Cache.open(folder, "train").read([11], [False])[0].shape == (1, 1, 24, 32)


def test_a_cache_holds_no_file_open(cache: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = [readout_cache.Cache.open(cache, "train") for _ in range(20)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    assert len(opened[0].parts) >= 1


def test_a_part_that_is_cut_short_is_named(cache: Path, tmp_path: Path) -> None:
    other = shutil.copytree(cache, tmp_path / "tiny")
    cut = other / "train-000000.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-000000\.safetensors is missing or cut short"):
        readout_cache.Cache.open(other, "train")


def test_a_split_without_readouts_is_named(cache: Path) -> None:
    with pytest.raises(ValueError, match="no complete readouts of split 'test'"):
        readout_cache.Cache.open(cache, "test")


def test_readouts_of_another_key_are_refused_and_not_added_to(
    cache: Path, data: Path, encoder: Encoder, tmp_path: Path
) -> None:
    other = shutil.copytree(cache, tmp_path / "another-key")
    with pytest.raises(ValueError, match="another-key holds the readouts tiny, of another"):
        readout_cache.Cache.open(other, "train")
    with pytest.raises(ValueError, match="delete the folder"):
        readout_cache.build(other, (data,), ("train", "val"), encoder)


def test_the_key_follows_config_weights_and_data(encoder: Encoder) -> None:
    other = Encoder(EncoderConfig(backbone="tiny", weights="none", size=(96, 128)))
    keys = {
        readout_cache.key(encoder, "data", "weights"),
        readout_cache.key(encoder, "other data", "weights"),
        readout_cache.key(encoder, "data", "other weights"),
        readout_cache.key(other, "data", "weights"),
    }
    assert len(keys) == 4
    assert readout_cache.key(encoder, "data", "weights") in keys
