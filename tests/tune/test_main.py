"""Arguments of `python -m tune`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from emlnet.losses import LossWeights
from pipelines.stage import Place
from tune.__main__ import main, parse
from tune.config import LossWeightsCommand, check
from tune.objective import Setting
from tune.tuner import domain, make_sampler, num_at_once


def test_the_flags_of_a_search_become_its_config():
    line = (
        "loss-weights --data shards --backbone tiny --weights none --size 96 128 --num-trials 3 "
        "--epochs 2 --objective nss --seed 5 --sampler random --space.extra-terms sim "
        "--num-workers 2 --out here"
    )
    command = parse(line.split())
    assert command.data == Path("shards")
    assert (command.encoder.backbone, command.encoder.size) == ("tiny", (96, 128))
    assert (command.num_trials, command.plan.epochs, command.objective) == (3, 2, "nss")
    assert (command.seed, command.sampler, command.space.extra_terms) == (5, "random", ("sim",))
    assert (command.compute.num_workers, command.tracking.out) == (2, Path("here"))


def test_by_default_a_search_is_eight_trials_of_one_epoch_by_kl():
    command = parse(["loss-weights", "--data", "shards"])
    assert command == LossWeightsCommand(data=Path("shards"))
    assert (command.num_trials, command.plan.epochs, command.objective) == (8, 1, "kl")
    assert command.space.terms == ("kl", "cc", "nss")


@pytest.mark.parametrize("line", ["", "loss-weights", "losses --data x", "loss-weights --data x y"])
def test_a_line_that_is_no_command_is_refused(line):
    with pytest.raises(SystemExit):
        parse(line.split())


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--num-trials 0", "at least 1"),
        ("--loss-weights kl=2", "leave it out"),
        ("--select nss", "--objective"),
    ],
)
def test_flags_that_contradict_a_search_are_refused(flags, reason):
    command = parse(f"loss-weights --data shards {flags}".split())
    with pytest.raises(ValueError, match=reason):
        check(command)


def test_a_users_error_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert main(["loss-weights", "--data", str(tmp_path), "--backbone", "tiny"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(tmp_path) in error
    assert error.count("\n") == 1


def test_trials_at_once_are_those_that_the_free_resources_hold():
    assert num_at_once(1, False, {"CPU": 2.0}) == 2
    assert num_at_once(2, False, {"CPU": 5.0}) == 2
    assert num_at_once(1, True, {"CPU": 16.0, "GPU": 3.0}) == 3


@pytest.mark.parametrize("free", [{}, {"CPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}])
def test_a_trial_that_fits_nowhere_is_refused_before_it_waits_for_ever(free):
    with pytest.raises(ValueError, match=r"a trial wants 2 .PUs, the cluster has"):
        num_at_once(2, True, free)


def test_equal_weights_are_proposed_first_and_a_seed_repeats_the_others():
    command = LossWeightsCommand(data=Path("shards"), seed=3)

    def propose() -> list[LossWeights]:
        sampler = make_sampler(command)
        space = {k: domain(v) for k, v in command.space.dimensions().items()}
        sampler.set_search_properties("score", "min", space)
        return [command.space.weights(sampler.suggest(str(number))) for number in range(4)]

    first = propose()
    assert first[0] == LossWeights(kl=1, cc=1, nss=1)
    assert len({str(weights) for weights in first}) == 4
    assert propose() == first


@pytest.mark.parametrize("objective", ["kl", "nss", "cc", "sim"])
def test_a_trial_keeps_the_best_epoch_by_the_objective(objective):
    command = LossWeightsCommand(data=Path("shards"), objective=objective)
    place = Place(
        folder=Path("search"),
        data=Path("shards"),
        manifest=None,  # type: ignore[arg-type]
        tracker=None,  # type: ignore[arg-type]
        compute=command.compute,
    )
    setting = Setting(
        place=place,
        space=command.space,
        objective=objective,
        encoder=replace(command.encoder, backbone="tiny", weights="none", size=(96, 128)),
        plan=command.plan,
        seed=0,
        num_threads=1,
    )
    job = setting.job({"kl": 0.9, "cc": 0.0, "nss": 0.9})
    assert job.plan.select == objective
    assert job.plan.loss_weights == LossWeights(kl=1.5, cc=0, nss=1.5)
    assert job.title == "trial kl=1.5,nss=1.5"
