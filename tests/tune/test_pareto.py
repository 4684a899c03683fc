"""Winners, fronts and knees."""

from __future__ import annotations

import itertools
import random

from tune.pareto import choose, front, knee, rank


def test_the_best_finished_trial_wins_by_one_objective(make_record):
    records = [make_record(n, ig) for n, ig in enumerate((0.1, 0.5, 0.3))]
    choice = choose(records, ["ig"])
    assert choice is not None
    assert choice.winner is records[1]
    assert choice.front == [records[1]]
    assert choice.reason == "the best ig of 3 trials"


def test_a_trial_that_was_stopped_early_never_beats_one_that_finished(make_record):
    done, stopped = make_record(0, 0.1), make_record(1, 0.9, state="stopped", num_epochs=3)
    assert rank([stopped, done], "ig") == [done, stopped]
    choice = choose([stopped, done], ["ig"])
    assert choice is not None
    assert choice.winner is done


def test_nothing_is_chosen_where_every_trial_failed(make_record):
    failed = make_record(0, 0.1, state="failed", cause="why")
    assert choose([failed], ["ig"]) is None
    assert choose([failed], ["nss", "kl"]) is None


def test_a_front_holds_what_no_other_trial_dominates(make_record):
    draw = random.Random(4)
    records = [
        make_record(n, 0.5, scores={"nss": draw.random(), "kl": draw.random()}) for n in range(40)
    ]
    kept = front(records, ["nss", "kl"])
    assert [r.scores["nss"] for r in kept] == sorted((r.scores["nss"] for r in kept), reverse=True)
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
        choice = choose(records, ["nss", "kl"])
        assert choice is not None
        assert "knee of a front of 3" in choice.reason


def test_one_trial_that_is_best_in_everything_is_the_whole_front(make_record):
    records = [make_record(n, ig) for n, ig in enumerate((0.1, 0.5, 0.3))]
    choice = choose(records, ["nss", "kl"])
    assert choice is not None
    assert choice.front == [records[1]]
    assert "no other of 3 trials is better in any of nss and kl" in choice.reason
