"""Records of trials, winners, fronts and knees."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from tests.tune.made_up import make_report, searching
from tune.records import TrialRecord, choose, front, knee, load_record, rank, read_records
from tune.space import BASELINE_WEIGHTS, Space


def config(**point: float) -> dict[str, dict[str, float]]:
    return {"point": {**Space().point(BASELINE_WEIGHTS), **point}}


def test_a_record_has_the_scores_of_the_best_epoch_and_never_of_the_untrained_model(search):
    reports = [make_report(epoch, ig) for epoch, ig in enumerate((0.9, 0.2, 0.4, 0.3))]
    record = TrialRecord.of(searching(search, trial_epochs=3), config(), reports)
    assert (record.state, record.epoch, record.num_trained) == ("finished", 2, 3)
    assert record.scores["ig"] == 0.4
    assert record.seconds == 8


def test_less_is_better_by_kl(search):
    reports = [make_report(epoch, 0.1, kl=kl) for epoch, kl in ((1, 0.6), (2, 0.4), (3, 0.5))]
    record = TrialRecord.of(searching(search, objective="kl"), config(), reports)
    assert record.epoch == 2


def test_a_trial_that_failed_has_a_reason_and_one_without_an_epoch_is_unfinished(search):
    record = TrialRecord.of(search, config(), reason="the loss is not finite")
    assert (record.state, record.reason, record.scores) == ("failed", "the loss is not finite", {})
    assert TrialRecord.of(search, config()).state == "unfinished"


def test_a_final_run_has_its_own_seed_and_the_length_of_the_whole_training(search):
    final = {"final": {**config(), "seed": 9}}
    record = TrialRecord.of(search, final, [make_report(1, 0.1)])
    assert (record.final, record.seed, record.state) == (True, 9, "stopped")
    assert record.point == config()["point"]


@pytest.mark.parametrize("factor", ["lr", "width"])
def test_the_baseline_is_1_1_1_with_all_else_as_the_command_says(search, factor):
    searched = searching(search, space=Space(also=(factor,)))
    base, other = (TrialRecord.of(searched, config(**{factor: f})) for f in (1.0, 2.0))
    assert base.is_baseline
    assert not other.is_baseline
    assert other.name.startswith(f"kl=1,cc=1,nss=1 {factor}=")


def test_records_are_read_in_the_order_in_which_their_trials_began(make_record, tmp_path):
    records = [replace(make_record(n, 0.1 * n), number=2 - n) for n in range(3)]
    for name, record in zip("abc", records, strict=True):
        record.save(tmp_path / name)
    assert read_records(tmp_path) == records[::-1]
    assert load_record(tmp_path / "d") is None


def test_the_best_trial_wins_by_one_objective(make_record):
    records = [make_record(n, ig) for n, ig in enumerate((0.1, 0.5, 0.3))]
    choice = choose(records, ["ig"])
    assert (choice.winner, choice.front) == (records[1], [records[1]])
    assert choice.reason == "the best ig of 3 trials"


def test_a_trial_that_was_stopped_early_never_beats_one_that_finished(make_record):
    done, stopped = make_record(0, 0.1), make_record(1, 0.9, state="stopped")
    assert rank([stopped, done], "ig") == [done, stopped]
    assert choose([stopped, done], ["ig"]).winner is done


def test_nothing_is_chosen_where_every_trial_failed(make_record):
    failed = make_record(0, 0.1, state="failed", reason="why")
    assert choose([failed], ["ig"]) is choose([failed], ["nss", "kl"]) is None


def test_a_front_holds_the_trials_that_no_other_dominates(make_record):
    draw = random.Random(4)
    records = [
        make_record(n, 0.5, scores={"nss": draw.random(), "kl": draw.random()}) for n in range(40)
    ]
    kept = front(records, ["nss", "kl"])
    for record in records:
        beaten = any(
            other.scores["nss"] > record.scores["nss"] and other.scores["kl"] < record.scores["kl"]
            for other in records
        )
        assert (record in kept) != beaten


def test_the_knee_is_nearest_to_the_best_of_both_whatever_their_units(make_record):
    values = [(3.0, 0.50), (2.9, 0.30), (2.0, 0.25)]
    for nss_unit, kl_unit in itertools.product((1, 1000), repeat=2):
        records = [
            make_record(n, 0.5, scores={"nss": nss * nss_unit, "kl": kl * kl_unit})
            for n, (nss, kl) in enumerate(values)
        ]
        assert knee(records, ["nss", "kl"]) is records[1]
        assert "knee of the Pareto front, 3 of" in choose(records, ["nss", "kl"]).reason


def test_one_trial_that_is_best_in_everything_is_the_whole_front(make_record):
    records = [make_record(n, ig) for n, ig in enumerate((0.1, 0.5, 0.3))]
    choice = choose(records, ["nss", "kl"])
    assert choice.front == [records[1]]
    assert choice.reason == "the best nss and kl of 3 trials"
