"""Tables, verdicts, the page, and what best-weights.json holds."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import replace

import pytest

from emlnet.losses.weighted import LossWeights
from pipelines.config.flags import read_loss_weights
from pipelines.tracking.run_folder import write_json
from tests.tune.made_up import make_report
from tune import search_report
from tune.records import Choice, choose
from tune.space import EQUAL


def chosen(records, objectives=("ig",)) -> Choice:
    choice = choose(records, objectives)
    assert choice is not None
    return choice


def final_runs(make_record, number, values, **changes):
    """Runs of one weights with one seed for each value of the held-out IG."""
    runs = []
    for seed, ig in enumerate(values):
        scores = {"ig": ig, "nss": 3.0, "kl": 2 - ig / 2, "cc": 0.5, "sim": 0.5, "auc": 0.5}
        held_out = {f"held_out_{name}": value for name, value in scores.items()}
        runs.append(make_record(number, 0.5, final=True, seed=seed, scores=held_out, **changes))
    return runs


def compared(make_record, ours, theirs):
    finals = final_runs(make_record, 2, ours) + final_runs(make_record, 0, theirs)
    return search_report.compare(finals, make_record(2, 0.5))


def test_the_table_has_the_best_first_and_the_failed_last(make_record):
    records = [
        make_record(0, 0.3),
        make_record(1, 0.1, state="failed", reason="the loss is not finite"),
        make_record(2, 0.5),
        make_record(3, 0.9, state="stopped"),
    ]
    table = search_report.trial_table(records, chosen(records), ["ig"])
    assert list(table.index) == [
        "kl=1.8,cc=0.6,nss=0.6",
        "kl=1,cc=1,nss=1",
        "kl=2,cc=0.5,nss=0.5",
        "kl=1.5,cc=0.75,nss=0.75",
    ]
    assert list(table[""]) == [
        "winner",
        "baseline",
        "stopped early",
        "failed: the loss is not finite",
    ]


def test_gains_are_those_of_each_seed_so_that_what_a_seed_does_to_both_cancels(make_record):
    final = compared(make_record, (1.3, 2.4, 3.5), (1.1, 2.1, 3.1))
    assert final.num_seeds == 3
    assert final.winner["ig"] == pytest.approx((2.4, statistics.stdev((1.3, 2.4, 3.5))))
    assert final.gain["ig"] == pytest.approx((0.3, 0.1))
    assert final.gain["kl"] == pytest.approx((0.15, 0.05))  # Lower, so better.


def test_only_seeds_that_both_have_are_compared(make_record):
    final = compared(make_record, (1.3, 1.4, 9.0), (1.2, 1.2))
    assert (final.num_seeds, final.gain["ig"][0]) == (2, pytest.approx(0.15))
    assert compared(make_record, (1.3,), ()) is None


@pytest.mark.parametrize(
    ("ours", "told"),
    [
        ((1.30, 1.34, 1.32), "with 3 seeds .* gain over 1:1:1 is ig +0.1133 ± 0.0153."),
        ((1.30,), "with 1 seed .* gain over 1:1:1 is ig +0.1000."),
    ],
)
def test_the_verdict_tells_the_gain_on_the_held_out_half(make_record, ours, told):
    choice = chosen([make_record(0, 0.3), make_record(2, 0.5)])
    text = search_report.verdict(choice, ["ig"], compared(make_record, ours, (1.20, 1.23, 1.19)))
    assert re.search(told.replace("+", r"\+"), text)
    assert "half of val that no trial was tuned on" in text


def test_one_seed_shows_no_spread(make_record):
    records = [make_record(0, 0.3), make_record(2, 0.5)]
    final = compared(make_record, (1.3,), (1.2,))
    text = search_report.text_tables(records, chosen(records), ["ig"], final)
    assert "±" not in text
    assert "+0.1000" in text


def test_weights_that_lost_in_the_final_runs_are_not_kept_nor_their_learning_rate(make_record):
    finals = final_runs(make_record, 2, (1.0, 1.1)) + final_runs(make_record, 0, (1.2, 1.3))
    records = [make_record(0, 0.3), make_record(2, 0.5, other={"lr": 0.01})]
    content = search_report.summarise(records, finals, chosen(records), ["ig"])
    assert LossWeights(**content["weights"]) == EQUAL
    assert "1:1:1 is kept" in content["verdict"]
    assert content["other"] == {}
    without = search_report.summarise(records, [], chosen(records), ["ig"])
    assert without["other"] == {"lr": 0.01}
    assert "one seed" in without["verdict"]


def test_final_runs_that_failed_are_told_with_the_first_reason(make_record):
    failed = final_runs(make_record, 2, (1.0, 1.1), state="failed", reason="its process died")
    records = [make_record(0, 0.3), make_record(2, 0.5)]
    verdict = search_report.summarise(records, failed, chosen(records), ["ig"])["verdict"]
    assert "2 final runs failed, the first because: its process died." in verdict
    assert "--retry-failed" in verdict


def test_the_untrained_decoder_is_a_row_of_the_final_table(make_record):
    ours, theirs = final_runs(make_record, 2, (1.3, 1.4)), final_runs(make_record, 0, (1.2, 1.3))
    scores = theirs[0].scores
    untrained = {**make_report(0, 0.1), "scores": scores}
    theirs = [replace(record, history=[untrained]) for record in theirs]
    final = search_report.compare([*ours, *theirs], make_record(2, 0.5))
    assert final is not None
    records = [make_record(0, 0.3), make_record(2, 0.5)]
    table = search_report.final_table(chosen(records), final)
    assert table.loc["untrained: the encoders' average", "ig"] == "1.2000"


def test_best_weights_are_where_a_command_reads_them(tmp_path, make_record):
    records = [make_record(0, 0.3), make_record(1, 0.1, state="failed"), make_record(2, 0.5)]
    path = tmp_path / "best-weights.json"
    write_json(path, search_report.summarise(records, [], chosen(records), ["ig"]))
    content = json.loads(path.read_text())
    assert content["baseline"]["scores"]["ig"] == 0.3
    assert [trial["state"] for trial in content["trials"]].count("failed") == 1
    assert read_loss_weights(f"@{path}") == records[2].weights


ABOUT = {
    "subject": "tiny",
    "seed": 0,
    "run_id": "abc",
    "data": {"name": "osie", "digest": "0" * 64},
    "cost": {"trial_epochs": 9, "full_epochs": 20, "seconds": 30.0},
}


def write_page(tmp_path, records, objectives, final=None):
    choice = chosen(records, objectives)
    content = search_report.summarise(records, [], choice, objectives, **ABOUT)
    search_report.write_page(
        tmp_path / "search.html", records, choice, final, content, ("kl", "cc", "nss")
    )
    return (tmp_path / "search.html").read_text()


def test_a_page_of_a_short_search_says_which_figures_are_missing_and_why(tmp_path, make_record):
    final = compared(make_record, (1.3,), (1.2,))
    page = write_page(tmp_path, [make_record(0, 0.3), make_record(2, 0.5)], ["ig"], final)
    assert "the same 1 seed, scored" in page
    assert "--loss-weights kl=1.8,cc=0.6,nss=0.6" in page
    assert page.count("Not drawn: ") == 3
    for reason in ("has no front", "every trial has a single epoch", "it takes 8 trials"):
        assert f"Not drawn: {reason}" in page or reason in page
    assert page.count("<svg") == 1


def test_a_page_of_a_long_search_has_all_figures(tmp_path, make_record):
    records = [
        make_record(
            n, n / 10, history=[make_report(e, n / 10, nss=n, kl=1 / (n + 1)) for e in (1, 2)]
        )
        for n in range(9)
    ]
    records = [replace(r, scores=r.history[0]["scores"], epoch=1) for r in records]
    page = write_page(tmp_path, records, ["nss", "kl"])
    assert "Not drawn" not in page
    assert page.count("<svg") == 4
