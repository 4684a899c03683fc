"""Whole searches under Ray, on a small synthetic data set and two CPUs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from emlnet.inference import package
from emlnet.losses.weighted import LossWeights
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.registry.mlflow_registry import connect
from pipelines.config.flags import read_loss_weights
from pipelines.ray_cluster.connection import RAY_ENV
from shards.build.writer import build
from shards.files.manifest import Manifest
from shards.layouts.synthetic import write_sample
from tune.__main__ import main, parse
from tune.results import find_records
from tune.search_config import LossWeightsCommand
from tune.space import EQUAL
from tune.subjects import open_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TINY = "--backbone tiny --weights none --size 96 128 --batch-size 4"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of two CPUs, of these tests alone."""
    folder = tempfile.mkdtemp(prefix="ray")  # short: sockets lie in it
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY_ENV.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=2, include_dashboard=True, _temp_dir=folder)
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "raw", num_images=20, progress=False)
    build(folder / "raw", folder / "shards", progress=False)
    return folder / "shards"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that learned nothing, packaged."""
    folder = tmp_path_factory.mktemp("encoder") / "package"
    config = EncoderConfig(backbone="tiny", weights="none", size=(96, 128))
    package.save(folder, Encoder(config).eval(), {})
    return folder


def arguments(line: str, tmp_path: Path, data: Path) -> list[str]:
    store = f"--tracking-uri sqlite:///{tmp_path / 'mlflow.db'} --experiment search"
    return f"loss-weights --data {data} --out {tmp_path / 'search'} {store} {line}".split()


def runs_of(tmp_path: Path) -> dict[str, Any]:
    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name='search'")
    return {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}


@pytest.mark.usefixtures("cluster")
def test_trials_of_two_workers_that_are_stopped_early_leave_their_cpus_to_the_next(
    data, tmp_path, make_record
):
    line = arguments(
        f"{TINY} --num-workers 2 --num-trials 3 --epochs 2 --warm-start-epochs 1 --final-seeds 0",
        tmp_path,
        data,
    )
    command = parse(line)
    assert isinstance(command, LossWeightsCommand)
    folder, _ = open_folder(command, Manifest.load(data))
    unbeatable = replace(make_record(9, 99.0, epochs=2), started=0.5)
    unbeatable.save(folder)

    assert main(line) == 0
    records = find_records(folder)
    assert [record.state for record in records] == ["finished", "stopped", "stopped"]
    assert [record.num_trained for record in records] == [2, 1, 1]
    assert (folder / "warm-up.safetensors").is_file()
    statuses = Counter(run.info.status for run in runs_of(tmp_path).values())
    assert statuses == {"FINISHED": 1, "KILLED": 2}


@pytest.mark.usefixtures("cluster")
def test_a_search_tries_equal_weights_first_and_runs_the_winner_with_other_seeds(
    data, encoder, tmp_path, capfd
):
    line = arguments(
        f"--decoder {encoder} --num-trials 4 --epochs 2 --batch-size 4 --final-seeds 2 "
        "--objective nss,kl --trial-scale 0.5",
        tmp_path,
        data,
    )
    assert main(line) == 0
    printed = capfd.readouterr().out
    assert "2 at once" in printed

    out = tmp_path / "search"
    path = out / "best-weights.json"
    content = json.loads(path.read_text())
    trials, finals = content["trials"], content["final_runs"]
    assert [trial["state"] for trial in trials] == ["finished"] * 4
    assert EQUAL in [LossWeights(**trial["weights"]) for trial in trials[:2]]
    assert read_loss_weights(f"@{path}") == LossWeights(**content["weights"])
    assert all(trial["num_epochs"] == len(trial["history"]) == 2 for trial in trials)
    if LossWeights(**content["winner"]["weights"]) != EQUAL:
        assert sorted(run["spec"]["seed"] for run in finals) == [1, 1, 2, 2]
        assert {"held_out_ig", "ig"} <= set(finals[0]["scores"])
        assert "half of val that no trial was tuned on" in content["verdict"]

    logged = runs_of(tmp_path)
    parent = logged.pop(content["run_id"])
    assert Counter(run.info.status for run in logged.values()) == {
        "FINISHED": len(trials) + len(finals)
    }
    for trial in trials:
        run = logged[trial["run_id"]]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert float(run.data.params["weight_kl"]) == trial["weights"]["kl"]
        assert run.data.metrics["best_nss"] == pytest.approx(trial["scores"]["nss"])
        client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
        assert len(client.get_metric_history(trial["run_id"], "val_kl")) == 2
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"best-weights.json", "search.html", "pareto.png", "parallel.png"} <= artifacts

    before = path.read_bytes()
    assert main(line) == 0
    assert "done before" in capfd.readouterr().out
    assert path.read_bytes() == before

    # As after a kill just before the end: the trials are found, and only the end is done again.
    path.unlink()
    assert main(line) == 0
    assert json.loads(path.read_text())["trials"] == trials
    assert len(runs_of(tmp_path)) == 1 + len(trials) + len(finals)


@pytest.mark.usefixtures("cluster")
def test_a_search_whose_trials_all_fail_stops_with_the_first_cause(data, encoder, tmp_path, capfd):
    line = arguments(
        f"--decoder {encoder} --num-trials 40 --epochs 1 --batch-size 4 --lr 1e30 --clip-norm 0",
        tmp_path,
        data,
    )
    assert main(line) == 1
    error = capfd.readouterr().err
    # Two begin at once, and either may be the first.
    assert re.search(r"trials failed; the first, kl=\S+: ", error)
    assert "not finite" in error
    assert "--retry-failed" in error
    states = Counter(record.state for record in find_records(tmp_path / "search"))
    assert 5 <= states["failed"] < 12
    # A trial that was under way on either of the two CPUs when the search ended is run again.
    assert states.total() - states["failed"] == states["running"] <= 2


def test_a_search_whose_process_was_killed_goes_on_and_repeats_no_trial(data, encoder, tmp_path):
    line = arguments(
        f"--decoder {encoder} --num-trials 8 --epochs 6 --batch-size 1 --final-seeds 0 "
        "--stop-by none",
        tmp_path,
        data,
    )
    out = tmp_path / "search"
    command = [sys.executable, "-m", "tune", *line]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 240
    while sum(record.state == "finished" for record in find_records(out)) < 2:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {r.spec.key: r for r in find_records(out) if r.state == "finished"}
    assert len(done) < 8

    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    records = {record.spec.key: record for record in find_records(out)}
    assert len(records) == 8
    assert {record.state for record in records.values()} == {"finished"}
    assert {key: records[key] for key in done} == done
    assert Counter(run.info.status for run in runs_of(tmp_path).values()) == {"FINISHED": 9}
