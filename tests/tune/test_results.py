"""Records of trials, their table, and what best-weights.json holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emlnet.finite import DivergedError
from emlnet.losses import LossWeights
from pipelines.config import read_loss_weights
from pipelines.runs import write_json
from tune import results
from tune.objective import best_epoch, direction, one_line
from tune.results import TrialRecord


def make_record(started: float, kl: float, **more: Any) -> TrialRecord:
    return TrialRecord(
        **{
            "weights": LossWeights(kl=started + 1, cc=1, nss=1),
            "state": "finished",
            "epoch": 1,
            "scores": {"kl": kl, "nss": 3 - kl, "cc": 0.5, "sim": 0.5},
            "started": started,
        }
        | more
    )


BASELINE = make_record(0, 0.5)
FAILED = make_record(1, 0.1, state="failed", scores={}, cause="the loss is not finite")
WINNER, LOSER = make_record(2, 0.4), make_record(3, 0.9)
RECORDS = [BASELINE, FAILED, WINNER, LOSER]


@pytest.mark.parametrize(("objective", "order"), [("kl", "min"), ("nss", "max"), ("cc", "max")])
def test_less_is_better_by_kl_alone(objective, order):
    assert direction(objective) == order


def test_the_best_finished_trial_wins_by_either_direction():
    assert results.best_record(RECORDS, "kl") is WINNER
    assert results.best_record([BASELINE, LOSER], "nss") is BASELINE
    assert results.best_record([FAILED], "kl") is None


def test_the_first_of_equal_trials_wins():
    twin = make_record(4, 0.5)
    assert results.best_record([BASELINE, twin], "kl") is BASELINE


def test_records_come_back_in_the_order_they_began(tmp_path):
    for name, record in zip("dcba", RECORDS, strict=True):
        record.save(tmp_path / results.TRIALS / name)
    (tmp_path / results.TRIALS / "under-way").mkdir()
    assert results.find_records(tmp_path) == RECORDS


def test_failed_trials_are_forgotten_before_they_run_again(tmp_path):
    for name, record in zip("abcd", RECORDS, strict=True):
        record.save(tmp_path / results.TRIALS / name)
    (tmp_path / results.TRIALS / "under-way").mkdir()
    (tmp_path / results.BEST_WEIGHTS).touch()
    results.forget_failed(tmp_path)
    assert results.find_records(tmp_path) == [BASELINE, WINNER, LOSER]
    left = {path.name for path in (tmp_path / results.TRIALS).iterdir()}
    assert left == {"a", "c", "d", "under-way"}
    assert not (tmp_path / results.BEST_WEIGHTS).exists()


def test_the_table_has_the_best_first_and_the_failed_last():
    lines = results.table(RECORDS, "kl").splitlines()
    assert [line.split()[0] for line in lines] == [
        "weights",
        "kl=3,cc=1,nss=1",
        "kl=1,cc=1,nss=1",
        "kl=4,cc=1,nss=1",
        "kl=2,cc=1,nss=1",
    ]
    assert lines[1].endswith("winner")
    assert lines[2].endswith("baseline")
    assert lines[4].endswith("failed: the loss is not finite")


def test_the_verdict_says_what_one_seed_is_worth():
    assert "0.4000 on val against 0.5000" in results.verdict(RECORDS, "kl")
    assert "one seed" in results.verdict(RECORDS, "kl")
    assert "No weights that were tried beat 1:1:1" in results.verdict([BASELINE, LOSER], "kl")
    assert "baseline 1:1:1 failed" in results.verdict([WINNER], "kl")


def test_best_weights_are_where_a_command_reads_them(tmp_path):
    path = tmp_path / results.BEST_WEIGHTS
    write_json(path, results.summary(RECORDS, "kl", backbone="tiny"))
    content = json.loads(path.read_text())
    assert LossWeights(**content["weights"]) == WINNER.weights
    assert content["baseline"]["scores"]["kl"] == 0.5
    assert [trial["state"] for trial in content["trials"]].count("failed") == 1
    assert read_loss_weights(f"@{path}") == WINNER.weights


def make_epoch(epoch: int, kl: float, best: bool) -> dict[str, Any]:
    scores = {"kl": kl}
    return {"epoch": epoch, "train_loss": {}, "scores": scores, "seconds": 1.0, "best": best}


def test_a_trial_is_scored_by_its_best_epoch():
    history = [make_epoch(1, 0.8, True), make_epoch(2, 0.6, True), make_epoch(3, 0.7, False)]
    assert best_epoch(history, "trial", "kl").epoch == 2


def test_a_score_that_is_no_number_fails_the_trial():
    with pytest.raises(DivergedError, match="kl on val is nan"):
        best_epoch([make_epoch(1, float("nan"), True)], "trial", "kl")


def test_a_failure_is_told_in_one_line_by_the_worker_it_began_in():
    plain = ValueError("3 workers want a CPU each")
    assert one_line(plain) == "3 workers want a CPU each"
    cause = RuntimeError("training failed")
    cause.worker_failures = {1: ValueError("Traceback:\n  deep\nValueError: no such file\n")}  # type: ignore[attr-defined]
    wrapped = RuntimeError("trial: training failed")
    wrapped.__cause__ = cause
    assert one_line(wrapped) == "ValueError: no such file"
    assert one_line(RuntimeError()) == "RuntimeError"
