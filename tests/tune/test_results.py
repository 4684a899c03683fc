"""Records of trials on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tune import results
from tune.results import Spec


def test_records_come_back_in_the_order_they_began(tmp_path, make_record):
    records = [make_record(n, 0.1 * n) for n in (2, 0, 1)]
    for record in records:
        record.save(tmp_path)
    (tmp_path / results.TRIALS / "left-over").mkdir()
    assert results.find_records(tmp_path) == sorted(records, key=lambda r: r.started)


def test_final_runs_are_not_among_the_trials(tmp_path, make_record):
    trial, final = make_record(0, 0.1), make_record(0, 0.1, final=True, seed=3)
    for record in (trial, final):
        record.save(tmp_path)
    assert results.find_records(tmp_path) == [trial]
    assert results.find_records(tmp_path, final=True) == [final]


def test_the_same_training_has_the_same_folder_and_another_seed_another():
    spec = Spec(point={"kl": 0.1, "cc": 0.2}, seed=1)
    assert spec.key == Spec(point={"cc": 0.2, "kl": 0.1}, seed=1).key
    others = {replace(spec, seed=2).key, replace(spec, final=True).key, spec.key}
    assert len(others) == 3


def test_a_trial_is_scored_by_its_best_epoch_and_never_by_the_untrained_model(make_record):
    record = make_record(0, 0.5, epochs=0, history=[], scores={})
    for epoch, ig in ((0, 0.9), (1, 0.2), (2, 0.4), (3, 0.3)):
        report = {"epoch": epoch, "scores": {"ig": ig, "kl": 1 - ig}}
        record = record.with_report(report, "ig")
    assert (record.epoch, record.scores["ig"], record.num_trained) == (2, 0.4, 3)


def test_less_is_better_by_kl_alone(make_record):
    record = make_record(0, 0.5, epochs=0, history=[], scores={})
    for epoch, kl in ((1, 0.6), (2, 0.4), (3, 0.5)):
        record = record.with_report({"epoch": epoch, "scores": {"kl": kl}}, "kl")
    assert record.epoch == 2


def test_an_epoch_that_is_done_again_counts_once(make_record):
    record = make_record(0, 0.5, epochs=0, history=[], scores={})
    for epoch, ig in ((1, 0.2), (2, 0.4), (2, 0.3)):
        record = record.with_report({"epoch": epoch, "scores": {"ig": ig}}, "ig")
    assert [report["scores"]["ig"] for report in record.history] == [0.2, 0.3]
    assert record.scores["ig"] == 0.3


def test_failed_trials_are_forgotten_before_they_run_again(tmp_path, make_record):
    kept, failed = make_record(0, 0.1), make_record(1, 0.1, state="failed", cause="no such file")
    for record in (kept, failed):
        record.save(tmp_path)
    results.forget_failed(tmp_path)
    assert results.find_records(tmp_path) == [kept]


def test_checkpoints_of_trials_that_ended_are_removed_and_of_others_kept(tmp_path, make_record):
    for number, state in enumerate(("running", "stopped", "failed")):
        record = make_record(number, 0.1, state=state)
        record.save(tmp_path)
        (results.trial_folder(tmp_path, record.spec) / results.TRAINING).mkdir()
    results.forget_training(tmp_path)
    (kept,) = tmp_path.glob(f"*/*/{results.TRAINING}")
    assert kept.parent.name == make_record(0, 0.1).spec.key


@pytest.mark.parametrize("factor", ["lr", "width"])
def test_the_baseline_is_all_as_the_command_says(make_record, factor):
    record = make_record(0, 0.1)
    assert record.is_baseline
    point = {**record.spec.point, factor: 2.0}
    assert not replace(record, spec=replace(record.spec, point=point)).is_baseline


def test_trials_at_the_same_time_count_once_in_the_time_of_a_search(make_record):
    times = [(0.0, 10.0), (5.0, 10.0), (100.0, 1.0)]
    records = [make_record(n, 0, started=t, seconds=s) for n, (t, s) in enumerate(times)]
    assert results.seconds_spent(records) == pytest.approx(16)
