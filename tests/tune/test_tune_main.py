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
from tune.__main__ import parse
from tune.search import first_points, num_at_once
from tune.search_config import LossWeightsCommand, SearchedFullCommand, check, check_full
from tune.searched_full import search_command, with_winner
from tune.space import BASELINE_WEIGHTS, KL_LED


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
        "--seed 5 --extra-terms sim --num-workers 2 --out here --trial-scale 0.75 "
        "--first kl=1 kl=2,nss=1"
    )
    assert (command.encoder.backbone, command.encoder.size) == ("tiny", (96, 128))
    assert (command.search.num_trials, command.plan.epochs, command.seed) == (3, 2, 5)
    assert command.search.objectives == ("nss", "kl")
    assert command.search.space.extra_terms == ("sim",)
    assert command.search.first[1] == LossWeights(kl=2, cc=0, nss=1)
    assert (command.scale, command.compute.num_workers) == (0.75, 2)
    assert command.tracking.out == Path("here")


@pytest.mark.parametrize(
    ("flags", "metric"),
    [
        ("", "ig"),
        ("--objective kl", "kl"),
        ("--objective nss,kl", None),
        ("--objective nss,kl --stop-by ig", "ig"),
        ("--stop-by none", None),
    ],
)
def test_trials_are_stopped_by_the_objective_unless_there_are_several(flags, metric):
    assert search(flags).search.ranked_by == metric


def test_a_decoders_search_starts_from_the_decoders_plan():
    command = search("--decoder a b")
    assert command.decoder == ("a", "b")
    assert (command.plan.ema, command.plan.guard, command.scale) == (0, (), 0.25)
    assert search("").scale == 0.5


@pytest.mark.parametrize(
    "line",
    [
        "",
        "loss-weights",
        "losses --data x",
        "loss-weights --data x y",
        "loss-weights --data x --num-trials 0",
        "loss-weights --data x --objective loss",
        "loss-weights --data x --stop-by nss,kl",
    ],
)
def test_a_line_without_a_command_or_with_a_meaningless_value_is_refused(line):
    with pytest.raises(SystemExit):
        parse(line.split())


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--loss-weights kl=2", "drop it"),
        ("--select nss", "--objective"),
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


def test_as_many_trials_run_at_once_as_the_free_resources_hold():
    assert num_at_once({"CPU": 2}, {"CPU": 5.0}) == 2
    assert num_at_once({"CPU": 4, "GPU": 1}, {"CPU": 16.0, "GPU": 3.0}) == 3
    assert num_at_once({"CPU": 8, "GPU": 1}, {"CPU": 16.0, "GPU": 3.0}) == 2
    for free in ({}, {"CPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}):
        with pytest.raises(ValueError, match=r"a trial needs 2 .PUs, .* free"):
            num_at_once({"CPU": 2, "GPU": 2}, free)


def test_1_1_1_comes_first_then_the_weights_that_are_named_unless_tried_before(make_record):
    command = search("--min-share 0")
    points = [command.search.space.point(weights) for weights in (BASELINE_WEIGHTS, KL_LED)]
    assert first_points(command, []) == points
    assert first_points(command, [make_record(0, 0.1)]) == points[1:]


def test_full_searches_on_one_backbone_with_the_presets_weights_tried_first():
    command = whole("--preset osie-cpu --num-trials 4 --search-on efficientnet_lite1 --freeze 2")
    started = find_preset("osie-cpu")
    searched = search_command(command, Path("shards"), Path("out"))
    check(searched)
    assert searched.encoder.backbone == "efficientnet_lite1"
    assert (searched.encoder.size, searched.finetune) == (started.size, Finetune(freeze=2))
    assert searched.search.first == (started.plan.loss_weights, KL_LED)
    assert searched.plan.loss_weights == BASELINE_WEIGHTS
    assert (searched.search.num_trials, searched.plan.epochs) == (4, started.plan.epochs)


def test_full_trains_with_the_winner_and_all_else_as_the_command_says():
    command = whole("--preset osie-cpu --epochs 7 --also lr")
    best = {"weights": {"kl": 2, "cc": 1, "nss": 0, "sim": 0, "mse": 0}, "other": {"lr": 0.002}}
    full = with_winner(command, best, Path("shards"), Path("out"))
    assert full.plan.loss_weights == LossWeights(kl=2, cc=1, nss=0)
    assert (full.plan.epochs, full.plan.lr, full.data) == (7, 0.002, (Path("shards"),))
    assert full.decoder_plan == find_preset("osie-cpu").decoder_plan


@pytest.mark.parametrize("flags", ["--search-on resnet50", "--also width", "--mix 0.5 0.5"])
def test_full_refuses_options_that_its_stages_or_its_search_lack(flags):
    with pytest.raises(ValueError, match=r"backbones|width|shares|mix"):
        check_full(whole(flags))


def test_full_refuses_weights_that_its_search_leaves_out_before_it_packs(tmp_path, monkeypatch):
    monkeypatch.setattr(full.full, "fingerprint", lambda source: pytest.fail("read the data"))
    with pytest.raises(ValueError, match=r"mse with 100% .*--extra-terms"):
        full.run(whole("--preset paper-nasnet --weights none"))


def test_full_extends_its_search_and_trains_with_another_winner_in_another_folder(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(full.full, "run", lambda command: command.tracking.out)
    best = {"weights": asdict(BASELINE_WEIGHTS), "other": {}}
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


def test_the_help_of_all_commands_imports_no_ray():
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
