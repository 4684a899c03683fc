"""Tables, verdicts, the page, and the content of best-weights.json."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from emlnet.losses.weighted import LossWeights
from pipelines.config.flags import read_loss_weights
from pipelines.tracking.run_folder import write_json
from tests.tune.made_up import make_report, make_scores, searching
from tune.records import choose
from tune.search_report import SearchResult, format_mean_std
from tune.space import BASELINE_WEIGHTS

Find = Callable[..., SearchResult]


@pytest.fixture
def found(search) -> Find:
    """The result of a search, given its trials and final runs."""

    def find(trials, finals=(), objective="ig") -> SearchResult:
        asked = searching(search, objective=objective)
        choice = choose(trials, asked.command.search.objectives)
        return SearchResult(search=asked, trials=trials, finals=finals, choice=choice)

    return find


@pytest.fixture
def trials(make_record):
    """1:1:1 and the winner."""
    return [make_record(0, 0.3), make_record(2, 0.5)]


@pytest.fixture
def final_runs(make_record):
    """Runs of the winner and of 1:1:1, with one seed for each value of the held-out IG."""

    def make(ours, theirs, **changes):
        runs = []
        for number, values in ((2, ours), (0, theirs)):
            for seed, ig in enumerate(values):
                scores = {f"held_out_{k}": v for k, v in make_scores(ig).items()}
                runs.append(
                    make_record(number, 0.5, final=True, seed=seed, scores=scores, **changes)
                )
        return runs

    return make


def test_the_table_has_the_best_first_and_the_failed_last(found, make_record):
    trials = [
        make_record(0, 0.3),
        make_record(1, 0.1, state="failed", reason="the loss is not finite"),
        make_record(2, 0.5),
        make_record(3, 0.9, state="stopped"),
    ]
    table = found(trials).trial_table()
    assert table[""].to_dict() == {
        "kl=1.8,cc=0.6,nss=0.6": "winner",
        "kl=1,cc=1,nss=1": "baseline",
        "kl=2,cc=0.5,nss=0.5": "stopped early",
        "kl=1.5,cc=0.75,nss=0.75": "failed: the loss is not finite",
    }
    assert table["ig"].iloc[0] == "0.5000"


def test_gains_are_those_of_each_seed_so_that_what_a_seed_does_to_both_cancels(
    found, trials, final_runs
):
    final = found(trials, final_runs((1.3, 2.4, 3.5), (1.1, 2.1, 3.1))).comparison
    assert final["winner"]["ig"].tolist() == [1.3, 2.4, 3.5]
    assert final["gain"]["ig"].tolist() == pytest.approx([0.2, 0.3, 0.4])
    assert final["gain"]["kl"].tolist() == pytest.approx([0.1, 0.15, 0.2])  # Lower, so better.
    assert format_mean_std(final["gain"], "+")["ig"] == "+0.3000 ± 0.1000"


def test_only_seeds_that_both_have_are_compared(found, trials, final_runs):
    final = found(trials, final_runs((1.3, 1.4, 9.0), (1.2, 1.2))).comparison
    assert final["gain"]["ig"].tolist() == pytest.approx([0.1, 0.2])
    assert found(trials, final_runs((1.3,), ())).comparison == {}


@pytest.mark.parametrize(
    ("ours", "gain"),
    [
        ((1.30, 1.34, 1.32), "with 3 seeds .* gain over 1:1:1 is ig +0.1133 ± 0.0153."),
        ((1.30,), "with 1 seed .* gain over 1:1:1 is ig +0.1000."),
    ],
)
def test_the_verdict_has_the_gain_on_the_held_out_half_and_no_spread_of_one_seed(
    found, trials, final_runs, ours, gain
):
    result = found(trials, final_runs(ours, (1.20, 1.23, 1.19)))
    assert re.search(gain.replace("+", r"\+"), result.verdict)
    assert ("±" in result.text_tables()) == (len(ours) > 1)
    assert result.metrics["final_ig"] == pytest.approx(sum(ours) / len(ours))


def test_weights_that_lost_in_the_final_runs_are_not_kept_nor_their_learning_rate(
    found, trials, final_runs
):
    trials[1] = replace(trials[1], other={"lr": 0.01})
    lost = found(trials, final_runs((1.0, 1.1), (1.2, 1.3)))
    assert LossWeights(**lost.content["weights"]) == BASELINE_WEIGHTS
    assert "1:1:1 is kept" in lost.verdict
    assert lost.content["other"] == {}
    without = found(trials)
    assert without.content["other"] == {"lr": 0.01}
    assert "one seed" in without.verdict


def test_the_verdict_has_the_first_reason_of_final_runs_that_failed(found, trials, final_runs):
    failed = final_runs((1.0, 1.1), (), state="failed", reason="its process died")
    verdict = found(trials, failed).verdict
    assert "2 final runs failed, the first because: its process died." in verdict
    assert "--retry-failed" in verdict


def test_the_untrained_decoder_is_a_row_of_the_final_table(found, trials, final_runs):
    finals = final_runs((1.3, 1.4), (1.2, 1.3))
    untrained = [{"epoch": 0, "seconds": 1.0, "scores": finals[2].scores}]
    finals = [replace(record, history=untrained) for record in finals]
    table = found(trials, finals).final_table()
    assert table.loc["untrained: the encoders' average", "ig"] == "1.2000"


def test_best_weights_are_where_a_command_reads_them(found, trials, final_runs, tmp_path):
    path = tmp_path / "best-weights.json"
    write_json(path, found(trials, final_runs((1.3,), (1.2,))).content)
    content = json.loads(path.read_text())
    assert [trial["scores"]["ig"] for trial in content["trials"]] == [0.3, 0.5]
    assert content["final"]["gain"]["0"]["ig"] == pytest.approx(0.1)
    assert read_loss_weights(f"@{path}") == trials[1].weights


def test_a_page_of_a_short_search_says_which_figures_are_missing_and_why(
    found, trials, final_runs, tmp_path
):
    found(trials, final_runs((1.3,), (1.2,))).write_page(tmp_path / "search.html")
    page = (tmp_path / "search.html").read_text()
    assert "the same seed, scored" in page
    assert "--loss-weights kl=1.8,cc=0.6,nss=0.6" in page
    assert "Not drawn: every trial has a single epoch" in page
    assert "Not drawn: it needs 8 trials" in page
    assert page.count("<svg") == 1


def test_a_page_of_a_long_search_has_all_figures(found, make_record, tmp_path):
    trials = [
        make_record(
            n, n / 10, history=[make_report(e, n / 10, nss=n, kl=1 / (n + 1)) for e in (1, 2)]
        )
        for n in range(9)
    ]
    trials = [replace(r, scores=r.history[0]["scores"], epoch=1) for r in trials]
    found(trials, objective="nss,kl").write_page(tmp_path / "search.html")
    page = (tmp_path / "search.html").read_text()
    assert "Not drawn" not in page
    assert page.count("<svg") == 4
