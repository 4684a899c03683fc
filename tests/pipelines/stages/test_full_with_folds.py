"""The whole pipeline with folds, in this process: who trains on a picture and who reads it."""

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from emlnet.data.batches import prepare_image
from emlnet.data.samples import collate
from emlnet.inference import package
from emlnet.models.eml_net import EMLNet
from emlnet.training.fit import fit
from emlnet.training.state import start
from pipelines.config.options import FullCommand, Tracking
from pipelines.config.presets import find_preset
from pipelines.ray_cluster import sizing
from pipelines.ray_train import trainer
from pipelines.ray_train.training_job import TrainingJob
from pipelines.stages import full
from pipelines.stages.encoder_stage import EncoderJob
from pipelines.stages.frozen_encoders import Cache
from pipelines.tracking.best_encoders import best_encoders
from shards.files.manifest import Manifest
from shards.read.folds import fold_of
from shards.read.reader import ShardReader

pytestmark = pytest.mark.usefixtures("in_process")

ENCODERS = ("encoder-0-tiny", "encoder-1-tiny")
STAGES = [
    "encoder tiny",
    "encoder tiny, fold 1 of 2 left out",
    "encoder tiny, fold 2 of 2 left out",
    "encoder tiny (2)",
    "encoder tiny (2), fold 1 of 2 left out",
    "encoder tiny (2), fold 2 of 2 left out",
    "decoder",
]


class Training:
    """Trains jobs in this process, and keeps the pictures that each encoder was trained on."""

    def __init__(self) -> None:
        self.seen: dict[str, set[str]] = {}
        self.interrupt_at = ""

    def train(self, job: TrainingJob, *_: Any) -> dict[str, Any]:
        if job.title == self.interrupt_at:
            raise KeyboardInterrupt
        job = copy.deepcopy(job)  # A decoder's job takes the backbones away.
        torch.manual_seed(job.seed)
        source = job.source(0, 1, torch.device("cpu"))
        state = fit(start(job.build(), job.plan, source.steps_per_epoch), job.plan, source)
        self.seen[job.title] = {
            key
            for epoch in range(job.plan.epochs)
            for step in range(source.steps_per_epoch)
            for key in source.keys(epoch, step)
        }
        if isinstance(job, EncoderJob):
            assert self.seen[job.title] == set(source.readers["train"].keys)
        return {"history": list(map(asdict, state.history)), "best_weights": state.best_weights}


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    training = Training()
    monkeypatch.setattr(trainer, "train", training.train)
    monkeypatch.setattr(sizing, "check_batch", lambda *given: None)
    monkeypatch.setattr(sizing, "plan_concurrency", lambda compute, _: (1, compute))
    return training


@pytest.fixture
def command(data: Path, tmp_path: Path) -> FullCommand:
    tracking = Tracking(out=tmp_path / "run", tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    return replace(find_preset("smoke"), data=(data,), folds=2, tracking=tracking)


def test_no_cached_readout_is_of_an_encoder_that_trained_on_the_picture(
    command: FullCommand, training: Training, data: Path, tmp_path: Path
) -> None:
    report = full.run(command)
    train, val = (ShardReader(data, split) for split in ("train", "val"))
    assert list(training.seen) == STAGES
    for name in STAGES[:1] + STAGES[3:4] + STAGES[-1:]:
        assert training.seen[name] == set(train.keys)

    def read(place: str, reader: ShardReader, position: int) -> list[torch.Tensor]:
        encoder = package.load(tmp_path / "run" / place / "package").encoders[0]
        batch = collate([reader.decoded(position)], np.ones(1, np.float32), np.array([False]))
        return encoder.readouts(prepare_image(batch))

    caches = sorted((tmp_path / "readouts").iterdir())
    assert len(caches) == 2
    for number, place in enumerate(ENCODERS):
        own = read(place, val, 0)
        (folder,) = [each for each in caches if agree(Cache(each, "val", len(val)), 0, own)]
        cache = Cache(folder, "train", len(train))
        for position, key in enumerate(train.keys):
            fold = fold_of(key, 2)
            assert key not in training.seen[STAGES[3 * number + 1 + fold]]
            assert key in training.seen[STAGES[3 * number + 2 - fold]]
            assert agree(cache, position, read(f"{place}-fold-{fold + 1}", train, position))
            assert not agree(cache, position, read(place, train, position))

    # The encoders of folds are recorded, but neither scored, nor packaged, nor chosen later.
    assert set(report["seconds"]) == {*STAGES, "all"}
    assert not any("fold" in model for model in report["scores"])
    model = package.load(tmp_path / "run" / "decoder" / "package").model
    assert isinstance(model, EMLNet)
    for encoder, place in zip(model.encoder_list, ENCODERS, strict=True):
        whole = package.load(tmp_path / "run" / place / "package").encoders[0].state_dict()
        assert all(torch.equal(value, whole[key]) for key, value in encoder.state_dict().items())
    client = MlflowClient(command.tracking.uri)
    (parent,) = [run.info.run_id for run in search(client, "full")]
    assert len(search(client, "encoder")) == 2
    assert [run.data.tags["mlflow.parentRunId"] for run in search(client, "fold")] == [parent] * 4
    (best,) = best_encoders(command.tracking.uri, Manifest.load(data).digest, "kl")
    assert client.get_run(best).data.tags["stage"] == "encoder"


def agree(cache: Cache, position: int, taps: list[torch.Tensor]) -> bool:
    """Whether the cached readouts of a picture are these."""
    cached = cache.read([position], [False])
    return all(
        torch.allclose(one.float(), other, rtol=2e-3, atol=2e-3)
        for one, other in zip(cached, taps, strict=True)
    )


def search(client: MlflowClient, stage: str) -> list[Any]:
    experiments = [found.experiment_id for found in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.stage = '{stage}'"))


def test_an_interrupted_run_trains_what_is_missing(
    command: FullCommand, training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    training.interrupt_at = STAGES[4]
    with pytest.raises(KeyboardInterrupt):
        full.run(command)
    assert list(training.seen) == STAGES[:4]
    training.interrupt_at = ""
    training.seen.clear()
    capsys.readouterr()
    report = full.run(command)
    assert list(training.seen) == STAGES[4:]
    assert capsys.readouterr().out.count("done before") == 4
    assert np.isfinite(report["scores"]["decoder"]["mit_kl"])


def test_more_folds_than_pictures_are_refused_before_training(
    command: FullCommand, training: Training
) -> None:
    with pytest.raises(ValueError, match=r"12 training pictures .* of 40 folds"):
        full.run(replace(command, folds=40))
    assert not training.seen


def test_a_single_fold_is_refused(command: FullCommand) -> None:
    with pytest.raises(ValueError, match="folds are at least 2, or 0 for none, not 1"):
        replace(command, folds=1)
