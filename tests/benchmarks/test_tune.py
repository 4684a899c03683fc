"""What a search costs and what its ranking is worth, on a few synthetic pictures."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from benchmarks import tune
from emlnet.losses.weighted import LossWeights
from shards.build.writer import build
from shards.synthetic import write_sample
from tune.records import TrialRecord
from tune.space import Space


def record(number: int, igs: list[float]) -> TrialRecord:
    """A trial and its IG after each epoch."""
    space = Space(min_share=0)
    point = space.point(LossWeights(kl=number + 1, cc=1, nss=1))
    history = [{"epoch": epoch, "scores": {"ig": ig}} for epoch, ig in enumerate(igs, 1)]
    return TrialRecord(point=point, seed=0, weights=space.weights(point), history=history)


def test_chosen_trials_lie_evenly_over_the_ranking():
    # Ranked by the first epoch, which all have: by its last, the fifth would be the best.
    records = [record(n, [ig]) for n, ig in enumerate([0.3, 0.1, 0.5, 0.2])]
    records.append(record(4, [0.4, 0.9]))
    chosen = tune.spread_out(records, "ig", 3)
    assert [each.history[0]["scores"]["ig"] for each in chosen] == [0.1, 0.3, 0.5]
    assert len(tune.spread_out(records, "ig", 8)) == 5


@pytest.mark.slow
@pytest.mark.ray
def test_rows_tell_the_epochs_and_the_correlation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sample(tmp_path / "raw", num_images=15, seed=3, progress=False)
    build(tmp_path / "raw", tmp_path / "shards", progress=False)
    flags = "--backbone tiny --weights none --size 64 96 --epochs 2 --num-trials 3 --trial-epochs 1"
    given = Namespace(num_full=3, results=tmp_path / "results", flags=flags.split())
    tune.measure(tmp_path / "shards", tmp_path / "search", given)
    cost, ranking = json.loads((tmp_path / "results" / "tune.json").read_text())["rows"]
    assert (cost["ours"], cost["baseline"]) == ([3.0], [6.0])
    assert len(ranking["about"]["cheap"]) == len(ranking["about"]["full"]) == 3
    assert -1 <= ranking["baseline"][0] <= 1
