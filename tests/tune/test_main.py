"""Arguments of `python -m tune`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import tune.__main__
from emlnet.losses.weighted import LossWeights
from emlnet.models.finetune import Finetune
from pipelines.config.presets import find_preset
from pipelines.ray_cluster.stop_signal import TERMINATED, StoppedError
from tune import searched_full as full
from tune.__main__ import main, parse
from tune.search import first_specs
from tune.search_config import LossWeightsCommand, SearchedFullCommand, check, check_full
from tune.searched_full import search_command, with_winner
from tune.space import EQUAL, KL_LED
from tune.tuner import num_at_once


def search(line: str) -> LossWeightsCommand:
    command = parse(f"loss-weights --data shards {line}".split())
    assert isinstance(command, LossWeightsCommand)
    return command


def whole(line: str) -> SearchedFullCommand:
    command = parse(f"full --data raw {line}".split())
    assert isinstance(command, SearchedFullCommand)
    return command


def test_the_flags_of_a_search_become_its_config():
    command = search(
        "--backbone tiny --weights none --size 96 128 --num-trials 3 --epochs 2 --objective nss,kl "
        "--seed 5 --sampler random --extra-terms sim --also lr --num-workers 2 --out here "
        "--trial-scale 0.75 --max-hours 1.5 --first kl=1 kl=2,nss=1 --stop-by ig"
    )
    assert (command.encoder.backbone, command.encoder.size) == ("tiny", (96, 128))
    assert (command.search.num_trials, command.plan.epochs, command.seed) == (3, 2, 5)
    assert command.search.objectives == ("nss", "kl")
    assert command.search.space.extra_terms == ("sim",)
    assert command.search.first[1] == LossWeights(kl=2, cc=0, nss=1)
    assert (command.scale, command.search.max_hours) == (0.75, 1.5)
    assert (command.search.stops, command.search.ranked_by) == (True, "ig")
    assert (command.compute.num_workers, command.tracking.out) == (2, Path("here"))


def test_by_default_trials_of_ig_are_half_the_size_and_stopped_by_ig():
    command = search("")
    assert (command.search.num_trials, command.search.objective) == (32, "ig")
    assert (command.scale, command.trial_epochs) == (0.5, command.plan.epochs)
    assert (command.search.stops, command.search.ranked_by) == (True, "ig")


def test_a_search_by_several_objectives_stops_no_trial_unless_told_by_what():
    assert not search("--objective nss,kl").search.stops
    assert not search("--stop-by none").search.stops


def test_a_decoders_search_starts_from_the_decoders_plan():
    command = search("--decoder a b")
    assert command.decoder == ("a", "b")
    assert (command.plan.ema, command.plan.guard, command.scale) == (0.98, (), 0.25)


@pytest.mark.parametrize("line", ["", "loss-weights", "losses --data x", "loss-weights --data x y"])
def test_a_line_that_is_no_command_is_refused(line):
    with pytest.raises(SystemExit):
        parse(line.split())


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--loss-weights kl=2", "leave it out"),
        ("--select nss", "--objective"),
        ("--grace-epochs 5 --epochs 2", "--grace-epochs"),
        ("--decoder a --warm-start-epochs 1", "--warm-start-epochs"),
        ("--also width --warm-start-epochs 1", "width"),
        ("--also width --weights .", "packaged encoder"),
        ("--decoder a --freeze 2", "frozen"),
        ("--guard nss", "--guard"),
        ("--first sim=1", "sim with 100%.*--extra-terms"),
        ("--first kl=10,cc=2,nss=0.1", "nss with 1% of the sum.*--min-share"),
    ],
)
def test_flags_that_contradict_a_search_are_refused(flags, reason):
    with pytest.raises(ValueError, match=reason):
        check(search(flags))


@pytest.mark.parametrize("flags", ["--num-trials 0", "--objective loss", "--stop-by nss,kl"])
def test_values_that_mean_nothing_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        search(flags)
    printed = capsys.readouterr()
    assert "Value error" in printed.out + printed.err


def test_a_users_error_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert main(["loss-weights", "--data", str(tmp_path), "--backbone", "tiny"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(tmp_path) in error
    assert error.count("\n") == 1


def test_trials_at_once_are_those_that_the_free_resources_hold():
    assert num_at_once({"CPU": 1}, {"CPU": 2.0}) == 2
    assert num_at_once({"CPU": 2}, {"CPU": 5.0}) == 2
    assert num_at_once({"CPU": 4, "GPU": 1}, {"CPU": 16.0, "GPU": 3.0}) == 3
    assert num_at_once({"CPU": 8, "GPU": 1}, {"CPU": 16.0, "GPU": 3.0}) == 2


@pytest.mark.parametrize("free", [{}, {"CPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}])
def test_a_trial_that_fits_nowhere_is_refused_before_it_waits_for_ever(free):
    with pytest.raises(ValueError, match=r"a trial wants 2 .PUs, the cluster has"):
        num_at_once({"CPU": 2, "GPU": 2}, free)


def test_what_broke_off_runs_first_then_equal_weights_then_those_named(make_record):
    command = search("--min-share 0")
    broken = make_record(5, 0.1, state="running")
    points = [spec.point for spec in first_specs(command, [broken])]
    space = command.search.space
    assert points == [broken.spec.point, space.point(EQUAL), space.point(KL_LED)]
    known = [make_record(0, 0.1), broken]
    assert [s.point for s in first_specs(command, known)] == [points[0], points[2]]


def test_full_searches_on_one_backbone_with_the_presets_weights_tried_first():
    command = whole("--preset osie-cpu --num-trials 4 --search-on efficientnet_lite1")
    started = find_preset("osie-cpu")
    searched = search_command(command, Path("shards"), Path("out"))
    check(searched)
    assert searched.encoder.backbone == "efficientnet_lite1"
    assert searched.encoder.size == started.size
    assert searched.search.first == (started.plan.loss_weights, KL_LED)
    assert searched.plan.loss_weights == EQUAL
    assert (searched.search.num_trials, searched.plan.epochs) == (4, started.plan.epochs)


def test_full_trains_with_the_winner_and_all_else_as_the_command_says():
    command = whole("--preset osie-cpu --epochs 7 --also lr")
    best = {"weights": {"kl": 2, "cc": 1, "nss": 0, "sim": 0, "mse": 0}, "other": {"lr": 0.002}}
    full = with_winner(command, best, Path("shards"), Path("out"))
    assert full.plan.loss_weights == LossWeights(kl=2, cc=1, nss=0)
    assert (full.plan.epochs, full.plan.lr, full.data) == (7, 0.002, (Path("shards"),))
    assert full.decoder_plan == find_preset("osie-cpu").decoder_plan


@pytest.mark.parametrize("flags", ["--search-on resnet50", "--also width", "--mix 0.5 0.5"])
def test_full_refuses_what_it_cannot_hand_on(flags):
    with pytest.raises(ValueError, match=r"backbones|width|shares|mix"):
        check_full(whole(flags))


def test_full_searches_with_the_finetuning_that_it_trains_with(tmp_path):
    searched = search_command(whole("--freeze 2 --eval-batchnorm"), tmp_path, tmp_path)
    assert searched.finetune == Finetune(freeze=2, eval_batchnorm=True)


def test_full_refuses_weights_that_its_search_leaves_out_before_it_packs(tmp_path, monkeypatch):
    monkeypatch.setattr(full.packing, "fingerprint", lambda source: pytest.fail("read the data"))
    with pytest.raises(ValueError, match=r"mse with 100% .*--extra-terms"):
        full.run(whole("--preset paper-nasnet --weights none"))


def test_full_goes_on_with_a_longer_search_and_trains_for_another_winner_elsewhere(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(full.full, "run", lambda command: command.tracking.out)
    best = {"weights": asdict(EQUAL), "other": {}}
    file = tmp_path / "best-weights.json"
    monkeypatch.setattr(full, "loss_weights", lambda command: file)

    def run(flags: str) -> Path:
        file.write_text(json.dumps(best))
        line = f"full --data {data} --out {tmp_path / 'out'} --search-on resnet18 {flags}"
        command = parse([*line.split(), "--backbones", "resnet18"])
        assert isinstance(command, SearchedFullCommand)
        out: Any = full.run(command)
        return Path(out)

    first = run("--num-trials 4")
    assert run("--num-trials 9 --retry-failed --max-hours 2 --final-seeds 1") == first
    best["weights"] = asdict(KL_LED)
    assert run("--num-trials 12") != first
    with pytest.raises(ValueError, match="another run"):
        run("--objective kl")


def test_training_that_was_asked_to_end_exits_as_that_of_pipelines(monkeypatch, capsys):
    def stopped(command: object) -> None:
        raise StoppedError("stopped as asked")

    monkeypatch.setattr(tune.__main__, "loss_weights", stopped)
    assert main(["loss-weights", "--data", "shards"]) == TERMINATED
    assert capsys.readouterr().err == "stopped as asked\n"
