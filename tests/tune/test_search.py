"""A whole search under Ray, on a small synthetic data set."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from emlnet.losses import LossWeights
from emlnet.registry import connect
from pipelines.config import read_loss_weights
from pipelines.trainer import RAY_ENV
from shards.sample import write_sample
from shards.writer import build
from tune.__main__ import main
from tune.space import EQUAL

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def cluster() -> Iterator[None]:
    """A Ray cluster of two CPUs, of this test alone."""
    folder = tempfile.mkdtemp(prefix="ray")  # short: sockets lie in it
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY_ENV.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=2, include_dashboard=False, _temp_dir=folder)
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_sample(tmp_path / "raw", num_images=20, progress=False)
    build(tmp_path / "raw", tmp_path / "shards", progress=False)
    return tmp_path / "shards"


def runs_of(uri: str) -> dict[str, Any]:
    client = connect(uri)
    experiments = [
        e.experiment_id for e in client.search_experiments(filter_string="name='search'")
    ]
    found = client.search_runs(experiments)
    return {run.info.run_id: run for run in found}


@pytest.mark.usefixtures("cluster")
def test_a_search_tries_equal_weights_first_and_is_not_run_twice(data, tmp_path, capfd):
    uri, out = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "search"
    line = (
        f"loss-weights --data {data} --backbone tiny --weights none --size 96 128 --num-trials 3 "
        f"--out {out} --tracking-uri {uri} --experiment search"
    ).split()
    assert main(line) == 0
    printed = capfd.readouterr().out
    assert "2 at once" in printed
    assert "baseline" in printed
    assert "winner" in printed

    path = out / "best-weights.json"
    content = json.loads(path.read_text())
    trials = content["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * 3
    assert LossWeights(**trials[0]["weights"]) == EQUAL
    assert content["baseline"] == trials[0]
    best = min(trials, key=lambda trial: trial["scores"]["kl"])
    assert content["winner"] == best
    assert read_loss_weights(f"@{path}") == LossWeights(**best["weights"])

    logged = runs_of(uri)
    parent = logged[content["run_id"]]
    children = {
        key: run
        for key, run in logged.items()
        if run.data.tags.get("mlflow.parentRunId") == content["run_id"]
    }
    assert Counter(run.info.status for run in logged.values()) == {"FINISHED": 4}
    assert set(children) == {trial["run_id"] for trial in trials}
    for trial in trials:
        run = children[trial["run_id"]]
        assert float(run.data.params["weight_kl"]) == trial["weights"]["kl"]
        assert run.data.metrics["val_kl"] == pytest.approx(trial["scores"]["kl"])
        assert len(connect(uri).get_metric_history(trial["run_id"], "val_kl")) == 1
    artifacts = [item.path for item in connect(uri).list_artifacts(parent.info.run_id)]
    assert artifacts == ["best-weights.json"]

    before = path.read_bytes()
    assert main(line) == 0
    assert "done before" in capfd.readouterr().out
    assert path.read_bytes() == before

    # As after a kill just before the end: the trials are found, and only the end is done again.
    path.unlink()
    assert main(line) == 0
    assert json.loads(path.read_text()) == content
    assert set(runs_of(uri)) == set(logged)
