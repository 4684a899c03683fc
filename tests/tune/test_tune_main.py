"""Arguments of `python -m tune`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from emlnet.losses.weighted import LossWeights
from emlnet.models.finetune import Finetune
from pipelines.config.presets import find_preset
from tune import searched_full as full
from tune.__main__ import main, parse
from tune.search import first_points, num_at_once
from tune.search_config import LossWeightsCommand, SearchedFullCommand, check, check_full
from tune.searched_full import search_command, with_winner
from tune.space import EQUAL, KL_LED


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
    assert command.search.ranked_by == "ig"
    assert (command.compute.num_workers, command.tracking.out) == (2, Path("here"))


def test_by_default_trials_of_ig_are_half_the_size_and_stopped_by_ig():
    command = search("")
    assert (command.search.num_trials, command.search.objective) == (32, "ig")
    assert (command.scale, command.trial_epochs) == (0.5, command.plan.epochs)
    assert command.search.ranked_by == "ig"


def test_a_search_by_several_objectives_stops_no_trial_unless_told_by_what():
    assert search("--objective nss,kl").search.ranked_by is None
    assert search("--stop-by none").search.ranked_by is None
    assert search("--objective nss,kl --stop-by ig").search.ranked_by == "ig"


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
    with pytest.raises(ValueError, match=r"a trial needs 2 .PUs, .* free"):
        num_at_once({"CPU": 2, "GPU": 2}, free)


def test_1_1_1_comes_first_then_the_weights_that_are_named_unless_tried_before(make_record):
    command = search("--min-share 0")
    points = [command.search.space.point(weights) for weights in (EQUAL, KL_LED)]
    assert first_points(command, []) == points
    assert first_points(command, [make_record(0, 0.1)]) == points[1:]


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
    monkeypatch.setattr(full.full, "fingerprint", lambda source: pytest.fail("read the data"))
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
    assert run("--num-trials 9 --retry-failed --final-seeds 1") == first
    best["weights"] = asdict(KL_LED)
    assert run("--num-trials 12") != first
    with pytest.raises(ValueError, match="another run"):
        run("--objective kl")


def test_the_help_of_all_commands_takes_less_than_a_second_and_imports_no_ray():
    script = "import sys; from tune.__main__ import main\ntry: main(['--help'])\nexcept SystemExit:"
    script += " print(*{'ray', 'torch', 'mlflow', 'optuna'} & set(sys.modules), 'end')"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert answer.stdout.decode().splitlines()[-1] == "end"


@pytest.mark.parametrize("command", ["loss-weights", "full"])
def test_help_shows_common_flags_and_help_all_the_rest(command, capsys):
    shown = []
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            parse([command, flag])
        shown.append(set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)))
    common, everything = shown
    assert {"--num-trials", "--backbone", "--backbones"} & common
    assert "--min-share" not in common
    assert "--min-share" in everything
    assert len(common) < 25 < len(everything)
