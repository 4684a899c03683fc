"""Tables, verdicts, and what best-weights.json holds."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict

import pytest

from emlnet.losses.weighted import LossWeights
from pipelines.config.flags import read_loss_weights
from pipelines.tracking.run_folder import write_json
from tune import search_report
from tune.pareto import Choice, choose
from tune.space import EQUAL


def chosen(records, objectives=("ig",)) -> Choice:
    choice = choose(records, objectives)
    assert choice is not None
    return choice


def final_runs(make_record, number, values, **changes):
    """Runs of one weights with one seed for each value of the held-out IG."""
    runs = []
    for seed, ig in enumerate(values):
        held_out = {"held_out_ig": ig, "held_out_nss": 3.0, "held_out_kl": 2 - ig / 2}
        others = {f"held_out_{name}": 0.5 for name in ("cc", "sim", "auc")}
        scores = {**held_out, **others}
        runs.append(make_record(number, 0.5, final=True, seed=seed, scores=scores, **changes))
    return runs


def test_the_table_has_the_best_first_and_the_failed_last(make_record):
    records = [
        make_record(0, 0.3),
        make_record(1, 0.1, state="failed", scores={}, cause="the loss is not finite"),
        make_record(2, 0.5),
        make_record(3, 0.9, state="stopped", num_epochs=4),
    ]
    lines = search_report.table(records, chosen(records), ["ig"]).splitlines()
    assert [line.split()[0] for line in lines] == [
        "weights",
        "kl=1.8,cc=0.6,nss=0.6",
        "kl=1,cc=1,nss=1",
        "kl=2,cc=0.5,nss=0.5",
        "kl=1.5,cc=0.75,nss=0.75",
    ]
    assert lines[1].endswith("winner")
    assert lines[2].endswith("baseline")
    assert lines[3].endswith("stopped early")
    assert lines[4].endswith("failed: the loss is not finite")


def test_means_and_spreads_are_those_of_the_seeds(make_record):
    ours, theirs = (1.30, 1.34, 1.32), (1.20, 1.23, 1.19)
    finals = final_runs(make_record, 2, ours) + final_runs(make_record, 0, theirs)
    final = search_report.compare(finals, make_record(2, 0.5))
    assert final is not None
    assert final.num_seeds == 3
    assert final.winner["ig"] == pytest.approx((1.32, statistics.stdev(ours)))


def test_gains_are_those_of_each_seed_so_that_what_a_seed_does_to_both_cancels(make_record):
    ours, theirs = (1.3, 2.4, 3.5), (1.1, 2.1, 3.1)
    finals = final_runs(make_record, 2, ours) + final_runs(make_record, 0, theirs)
    final = search_report.compare(finals, make_record(2, 0.5))
    assert final is not None
    assert final.gain["ig"] == pytest.approx((0.3, 0.1))
    assert final.gain["kl"] == pytest.approx((0.15, 0.05))  # Lower, so better.


def test_only_seeds_that_both_have_are_compared(make_record):
    finals = final_runs(make_record, 2, (1.3, 1.4, 9.0)) + final_runs(make_record, 0, (1.2, 1.2))
    final = search_report.compare(finals, make_record(2, 0.5))
    assert final is not None
    assert final.num_seeds == 2
    assert final.winner["ig"][0] == pytest.approx(1.35)
    assert final.gain["ig"][0] == pytest.approx(0.15)
    assert search_report.compare(final_runs(make_record, 2, (1.3,)), make_record(2, 0.5)) is None


@pytest.mark.parametrize(
    ("ours", "told"),
    [((1.30, 1.34, 1.32), "better beyond the spread"), ((1.2, 1.3, 1.15), "within the spread")],
)
def test_the_verdict_says_whether_a_gain_is_beyond_the_spread(make_record, ours, told):
    finals = final_runs(make_record, 2, ours) + final_runs(make_record, 0, (1.20, 1.23, 1.19))
    records = [make_record(0, 0.3), make_record(2, 0.5)]
    choice = chosen(records)
    text = search_report.verdict(
        records, choice, ["ig"], search_report.compare(finals, choice.winner)
    )
    assert told in text.split("; ")[0]
    assert "3 seeds" in text
    assert "half of val that no trial was tuned on" in text


def test_weights_that_lost_in_the_final_are_not_kept(make_record):
    finals = final_runs(make_record, 2, (1.0, 1.1)) + final_runs(make_record, 0, (1.2, 1.3))
    records = [make_record(0, 0.3), make_record(2, 0.5)]
    content = search_report.summary(records, finals, chosen(records), ["ig"])
    assert LossWeights(**content["weights"]) == EQUAL
    assert "1:1:1 is kept" in content["verdict"]


def test_one_to_one_to_one_that_is_kept_has_not_the_losers_learning_rate(make_record):
    finals = final_runs(make_record, 2, (1.0, 1.1)) + final_runs(make_record, 0, (1.2, 1.3))
    records = [make_record(0, 0.3), make_record(2, 0.5, other={"lr": 0.01})]
    assert search_report.summary(records, finals, chosen(records), ["ig"])["other"] == {}
    assert search_report.summary(records, [], chosen(records), ["ig"])["other"] == {"lr": 0.01}


def test_final_runs_that_failed_are_told_with_the_first_cause(make_record):
    failed = final_runs(make_record, 2, (1.0, 1.1), state="failed", cause="its process died")
    records = [make_record(0, 0.3), make_record(2, 0.5)]
    content = search_report.summary(records, failed, chosen(records), ["ig"])
    assert "Final runs that failed: 2, the first by its process died." in content["verdict"]
    assert "--retry-failed" in content["verdict"]


def test_without_final_runs_the_verdict_says_what_one_seed_is_worth(make_record):
    records = [make_record(0, 0.3), make_record(2, 0.5)]
    text = search_report.verdict(records, chosen(records), ["ig"], None)
    assert "0.5000 against 0.3000" in text
    assert "one seed" in text
    first = search_report.verdict(records[:1], chosen(records[:1]), ["ig"], None)
    assert first.startswith("No weights that were tried beat 1:1:1")


def test_the_untrained_decoder_is_a_row_of_the_final_table(make_record):
    finals = final_runs(make_record, 2, (1.3, 1.4)) + final_runs(make_record, 0, (1.2, 1.3))
    untrained = {**finals[-1].history[0], "epoch": 0}
    finals = [*finals[:2], *(type(r)(**{**vars(r), "history": [untrained]}) for r in finals[2:])]
    records = [make_record(0, 0.3), make_record(2, 0.5)]
    choice = chosen(records)
    final = search_report.compare(finals, choice.winner)
    assert final is not None
    assert "untrained" in search_report.final_table(choice, final).splitlines()[-1]


def test_best_weights_are_where_a_command_reads_them(tmp_path, make_record):
    records = [make_record(0, 0.3), make_record(1, 0.1, state="failed"), make_record(2, 0.5)]
    path = tmp_path / "best-weights.json"
    write_json(path, search_report.summary(records, [], chosen(records), ["ig"], subject="tiny"))
    content = json.loads(path.read_text())
    assert LossWeights(**content["weights"]) == records[2].weights
    assert content["baseline"]["scores"]["ig"] == 0.3
    assert [trial["state"] for trial in content["trials"]].count("failed") == 1
    assert content["winner"]["weights"] == asdict(records[2].weights)
    assert read_loss_weights(f"@{path}") == records[2].weights
