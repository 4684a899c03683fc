"""Where an encoder's training begins, and what is put together at its end."""

from pathlib import Path

import pytest
import torch

from emlnet.backbones.weights import WORDS
from emlnet.inference import package
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.finetune import Finetune
from emlnet.training.state import Plan, trained_weights
from pipelines.stages.encoder_stage import EncoderJob, licence_of, start_encoder
from shards.read.folds import Fold, fold_of
from shards.read.reader import ShardReader

TINY = EncoderConfig(backbone="tiny", weights="none", size=(48, 64))


def job(finetune: Finetune) -> EncoderJob:
    return EncoderJob(data=(), encoder=TINY, plan=Plan(), seed=3, finetune=finetune)


def test_frozen_weights_are_put_back_at_the_end() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        trained = job(Finetune(freeze=1)).build()
    weights = trained_weights(trained)
    assert not any(key.startswith("backbone.stage1.") for key in weights)
    whole = job(Finetune(freeze=1)).finish(weights)
    for key, value in trained.state_dict().items():
        assert torch.equal(whole.state_dict()[key], value), key


def test_finetuning_goes_on_from_a_packaged_encoder(tmp_path: Path) -> None:
    before = Encoder(TINY).eval()
    package.save(tmp_path / "model", before)
    config = EncoderConfig(backbone="tiny", weights=str(tmp_path / "model"), size=(96, 128))
    again = start_encoder(config)
    assert again.config.size == (96, 128)
    for key, value in before.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_a_licence_is_that_of_the_weights_that_training_starts_from(tmp_path: Path) -> None:
    given = {name: EncoderConfig(backbone="resnet50", weights=name) for name in WORDS}
    assert licence_of(given["default"]) == "resnet50 BSD-3-Clause"
    assert licence_of(given["none"]) == "resnet50 from random weights"
    places = EncoderConfig(backbone="resnet50", weights="somewhere/places.pth.tar")
    assert licence_of(places) == "resnet50 unknown (places.pth.tar)"
    package.save(tmp_path / "model", Encoder(TINY).eval(), {"licence": "none given"})
    packaged = EncoderConfig(backbone="tiny", weights=str(tmp_path / "model"), size=(48, 64))
    assert licence_of(packaged) == "none given"


def test_a_package_without_such_an_encoder_is_refused(tmp_path: Path) -> None:
    package.save(tmp_path / "model", Encoder(TINY).eval())
    config = EncoderConfig(
        backbone="tiny", readout="eml", weights=str(tmp_path / "model"), size=(48, 64)
    )
    with pytest.raises(ValueError, match=r"has 0 encoders of tiny .*it holds tiny \(density\)"):
        start_encoder(config)


@pytest.mark.parametrize("number", [0, 1])
def test_an_encoder_of_a_fold_trains_on_the_other_pictures_of_each_data_set(
    data: Path, number: int
) -> None:
    fold = Fold(number=number, total=2)
    plan = Plan(batch_size=4)
    job = EncoderJob(data=(data, data), mix=(0.5, 0.5), encoder=TINY, plan=plan, seed=0, fold=fold)
    source = job.source(0, 1, torch.device("cpu"))
    others = [key for key in ShardReader(data, "train").keys if fold_of(key, 2) != number]
    assert source.readers["train"].parts == (len(others), len(others))
    steps = range(source.steps_per_epoch)
    assert sorted(key for step in steps for key in source.keys(0, step)) == sorted(others * 2)
    assert len(list(source.train(0, 0))) == len(steps)
    assert len(source.readers["val"]) == 6
