"""Config trees, presets and command lines."""

import json
import re
import shlex
from pathlib import Path

import pytest

from emlnet.losses.weighted import LossWeights
from pipelines.__main__ import main, parse
from pipelines.commands.training.train_encoder import EncoderCommand
from pipelines.config.flags import read_loss_weights
from pipelines.config.options import Compute, FullCommand
from pipelines.config.presets import PRESETS, find_preset
from pipelines.ray_train import trainer
from pipelines.tracking.mlflow_runs import Tracker


def test_flags_change_a_preset() -> None:
    command = parse(
        ["full", "--preset", "osie-cpu", "--data", "x", "--epochs", "2", "--lr", "0.01"]
    )
    assert isinstance(command, FullCommand)
    assert command.data == (Path("x"),)
    assert (command.plan.epochs, command.plan.lr) == (2, 0.01)
    assert command.size == find_preset("osie-cpu").size == (360, 480)


def test_a_wrong_preset_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["full", "--preset", "nothing", "--data", "x"]) == 1
    message = capsys.readouterr().err
    assert all(name in message for name in PRESETS)
    with pytest.raises(ValueError, match="full"):
        parse(["encoder", "--preset", "osie-cpu", "--data", "x"])


def test_encoder_flags_reach_their_places() -> None:
    command = parse(
        shlex.split(
            "encoder --data d --backbone resnet50 --weights none --readout eml --size 96 128 "
            "--loss-weights kl=10,cc=2 --batch-size 4 --num-workers 2 --loader-workers 1 "
            "--no-use-gpu --seed 7 --tracking-uri http://127.0.0.1:1"
        )
    )
    assert isinstance(command, EncoderCommand)
    assert (command.encoder.backbone, command.encoder.readout) == ("resnet50", "eml")
    assert command.encoder.size == (96, 128)
    assert command.plan.loss_weights == LossWeights(kl=10, cc=2, nss=0)
    assert (command.compute.num_workers, command.compute.use_gpu) == (2, False)
    assert (command.seed, command.tracking.uri) == (7, "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--backbone nothing", "efficientnet_lite0"),
        ("--size 8 8", "size (height, width) must be"),
        ("--loss-weights kl", "loss weights are written"),
        ("--lr 0", "lr must be above 0"),
    ],
)
def test_a_wrong_value_ends_with_what_is_expected(
    flags: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["encoder", "--data", "d", *flags.split()])
    assert stopped.value.code == 2
    message = re.sub(r"[│╰╯─\s|]+", " ", capsys.readouterr().err)
    assert named in message


def test_loss_weights_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "best-weights.json"
    weights = LossWeights(kl=3, cc=2, nss=1)
    path.write_text(json.dumps({"weights": {"kl": 3, "cc": 2, "nss": 1, "sim": 0, "mse": 0}}))
    assert read_loss_weights(f"@{path}") == weights
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"best-weights\.json"):
        read_loss_weights(f"@{path}")


def test_loss_weights_come_from_a_searchs_run_in_the_store_that_the_command_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = Tracker.open(f"sqlite:///{tmp_path / 'store.db'}", "searches")
    (tmp_path / "best-weights.json").write_text(json.dumps({"weights": {"kl": 3, "nss": 1}}))
    with tracker.run(tmp_path, "search", params={}, tags={}) as run_id:
        tracker.log_file(run_id, tmp_path / "best-weights.json")
    line = f"encoder --data d --loss-weights @{run_id} --tracking-uri {tracker.uri}"
    command = parse(line.split())
    assert isinstance(command, EncoderCommand)
    assert command.plan.loss_weights == LossWeights(kl=3, cc=1, nss=1)
    with pytest.raises(ValueError, match=f"run {'0' * 32} in the MLflow store"):
        read_loss_weights(f"@{'0' * 32}", tracker.uri)


def test_one_weight_for_all_backbones_or_one_each() -> None:
    command = FullCommand(data=(Path("d"),), backbones=("tiny", "resnet50"), weights=("none",))
    assert [config.weights for config in command.encoders()] == ["none", "none"]
    with pytest.raises(ValueError, match="one each"):
        FullCommand(data=(Path("d"),), backbones=("tiny", "tiny", "tiny"), weights=("a", "b"))


@pytest.mark.parametrize("words", [["full"], ["full", "--preset", "osie-cpu"]])
def test_full_without_data_asks_for_it(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert "--data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "found"), [(0, (0, 0)), (3, (3, 3)), ("4", (4, 4)), ("2:8", (2, 8))]
)
def test_workers_are_a_number_or_a_range(given: int | str, found: tuple[int, int]) -> None:
    assert Compute(num_workers=given).worker_range == found


@pytest.mark.parametrize("given", ["8:2", "0:4", "two", "2:", "-1"])
def test_other_numbers_of_workers_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match="workers"):
        Compute(num_workers=given)


def test_checkpoints_lie_in_the_run_or_under_a_name_of_its_own_where_many_share(
    tmp_path: Path,
) -> None:
    stage, other = tmp_path / "a/run/decoder/training", tmp_path / "b/run/decoder/training"
    assert trainer.checkpoint_storage(stage, Compute()) == str(stage.parent)
    shared = Compute(storage="s3://bucket/checkpoints/")
    found = {trainer.checkpoint_storage(each, shared) for each in (stage, other)}
    assert len(found) == 2
    for place in found:
        assert re.fullmatch(r"s3://bucket/checkpoints/run-[0-9a-f]{8}/decoder", place)
