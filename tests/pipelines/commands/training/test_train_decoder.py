"""Decoders over encoders of every kind: what is computed once, what is chosen, what is logged."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from emlnet.inference import package
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig
from pipelines.commands.training import cache_readouts, train_decoder
from pipelines.commands.training.cache_readouts import ReadoutsCommand
from pipelines.commands.training.train_decoder import DecoderCommand
from pipelines.config.options import DECODER_PLAN, Tracking
from pipelines.tracking.run_folder import StageResult

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

KINDS = (
    ("tiny", "density", (96, 128)),
    ("tiny", "eml", (48, 64)),
    ("timm:test_vit", "density", (96, 128)),
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three packaged encoders of other kinds, sizes and numbers of taps."""
    folder = tmp_path_factory.mktemp("packages")
    made = []
    for number, (backbone, kind, size) in enumerate(KINDS):
        torch.manual_seed(number)
        config = EncoderConfig(backbone=backbone, readout=kind, size=size, weights="none")
        made.append(str(package.save(folder / str(number), Encoder(config).eval())))
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decoding")


@pytest.fixture(scope="module")
def command(data: Path, packages: list[str], place: Path) -> DecoderCommand:
    return DecoderCommand(
        data=(data,),
        encoders=tuple(packages[:2]),
        plan=replace(DECODER_PLAN, epochs=1),
        tracking=Tracking(out=place / "first", tracking_uri=f"sqlite:///{place / 'mlflow.db'}"),
    )


@pytest.fixture(scope="module")
def result(command: DecoderCommand, local_ray: None) -> StageResult:
    cache_readouts.run(
        ReadoutsCommand(
            data=command.data,
            encoders=command.encoders,
            readouts=command.tracking.out.parent / "readouts",  # type: ignore[union-attr]
            tracking=command.tracking,
        )
    )
    return train_decoder.run(command)


@pytest.fixture(scope="module")
def chosen(
    command: DecoderCommand, result: StageResult, packages: list[str], place: Path
) -> StageResult:
    return train_decoder.run(
        replace(
            command,
            encoders=tuple(packages),
            select_encoders=True,
            tracking=replace(command.tracking, out=place / "second"),
        )
    )


def test_a_decoder_joins_eml_and_density_encoders(result: StageResult) -> None:
    model = package.load(result.package).model
    assert isinstance(model, EMLNet)
    assert [encoder.kind for encoder in model.encoder_list] == ["density", "eml"]
    assert model(torch.rand(1, 3, 50, 70)).exp().sum().item() == pytest.approx(1, abs=1e-3)


def test_one_more_encoder_computes_its_own_readouts_alone(
    command: DecoderCommand,
    result: StageResult,
    packages: list[str],
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    cache_readouts.run(
        ReadoutsCommand(
            data=command.data,
            encoders=(str(result.package), packages[2]),
            readouts=place / "readouts",
            tracking=command.tracking,
        )
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if "readouts of" in line]
    found = [("already in" in line, "test_vit" in line) for line in lines]
    assert found == [(True, False)] * 4 + [(False, True)] * 2


def test_the_table_of_subsets_is_on_the_run_of_the_chosen_decoder(
    command: DecoderCommand, chosen: StageResult
) -> None:
    client = MlflowClient(command.tracking.uri)
    run = client.get_run(chosen.run_id)
    text = run.data.tags["mlflow.note.content"]
    assert "tiny + tiny (2) + timm:test_vit" in text
    assert "were held out" in text
    assert "selection.json" in {file.path for file in client.list_artifacts(chosen.run_id)}
