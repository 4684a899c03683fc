"""Whole searches under Ray, on a small synthetic data set and two CPUs."""

from __future__ import annotations

import gc
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.air.execution.resources.placement_group import PlacementGroupResourceManager

from emlnet.inference import package
from emlnet.losses.weighted import LossWeights
from emlnet.models.encoder import Encoder
from emlnet.registry.mlflow_registry import connect
from pipelines.config.flags import read_loss_weights
from pipelines.ray_cluster import connection
from tests.tune.made_up import TINY
from tune.__main__ import main
from tune.records import read_records
from tune.space import BASELINE_WEIGHTS

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of two CPUs, for these tests only."""
    folder = tempfile.mkdtemp(prefix="ray")  # short: sockets lie in it
    with pytest.MonkeyPatch.context() as patch:
        for name, value in connection.RAY_ENV.items():
            patch.setenv(name, value)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=True,
            # Else Ray Train asks another cluster of this machine whether a stopped trial lives.
            runtime_env={"worker_process_setup_hook": connection._make_setup_hook()},
            _temp_dir=folder,
        )
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that learned nothing, packaged."""
    folder = tmp_path_factory.mktemp("encoder") / "package"
    package.save(folder, Encoder(TINY).eval(), {})
    return folder


def arguments(line: str, tmp_path: Path, data: Path) -> list[str]:
    store = f"--tracking-uri sqlite:///{tmp_path / 'mlflow.db'} --experiment search"
    return f"loss-weights --data {data} --out {tmp_path / 'search'} {store} {line}".split()


def runs_of(tmp_path: Path) -> dict[str, Any]:
    """The MLflow runs by their ids."""
    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name='search'")
    return {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}


def statuses(tmp_path: Path) -> Counter[str]:
    return Counter(run.info.status for run in runs_of(tmp_path).values())


def finished_trials(tmp_path: Path) -> list[dict[str, Any]]:
    """The records of finished trials in their folders."""
    records = read_records(tmp_path / "search" / "trials")
    return [asdict(record) for record in records if record.state == "finished"]


def found(tmp_path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tmp_path / "search" / "best-weights.json").read_text())
    return content


@pytest.mark.usefixtures("cluster")
def test_encoders_trials_that_are_stopped_early_leave_their_cpus_to_the_next(data, tmp_path, capfd):
    line = arguments(
        "--backbone tiny --weights none --size 96 128 --batch-size 4 --lr 0.01 --num-workers 2 "
        "--num-trials 4 --epochs 2 --final-seeds 0 --objective nss --first kl=1 cc=1",
        tmp_path,
        data,
    )
    assert main(line) == 0
    assert "1 at once" in capfd.readouterr().out
    trials = found(tmp_path)["trials"]
    states = Counter(trial["state"] for trial in trials)
    assert states["finished"] + states["stopped"] == 4
    assert states["stopped"] > 0
    for trial in trials:
        epochs = [report["epoch"] for report in trial["history"]]
        assert epochs == ([1, 2] if trial["state"] == "finished" else [1])
    assert statuses(tmp_path) == {"FINISHED": 1 + states["finished"], "KILLED": states["stopped"]}
    assert not (tmp_path / "search" / "training").exists()


@pytest.mark.usefixtures("cluster")
def test_a_search_tries_1_1_1_first_and_compares_the_winner_with_other_seeds(
    data, encoder, tmp_path, capfd
):
    flags = "--epochs 2 --batch-size 4 --final-seeds 2 --objective nss,kl --trial-scale 0.5"
    line = arguments(f"--decoder {encoder} --num-trials 4 {flags}", tmp_path, data)
    assert main(line) == 0
    printed = capfd.readouterr().out
    assert "2 at once" in printed
    assert "stopped early" not in printed

    path, content = tmp_path / "search" / "best-weights.json", found(tmp_path)
    trials, finals = content["trials"], content["final_runs"]
    assert [trial["state"] for trial in trials] == ["finished"] * 4
    assert LossWeights(**trials[0]["weights"]) == BASELINE_WEIGHTS
    assert read_loss_weights(f"@{path}") == LossWeights(**content["weights"])
    assert all(len(trial["history"]) == 2 for trial in trials)
    assert LossWeights(**content["winner"]["weights"]) != BASELINE_WEIGHTS
    assert sorted(run["seed"] for run in finals) == [1, 1, 2, 2]
    assert {"held_out_ig", "ig"} <= set(finals[0]["scores"])
    assert "with 2 seeds" in content["verdict"]

    logged = runs_of(tmp_path)
    assert statuses(tmp_path) == {"FINISHED": 1 + 4 + 4}
    parent = logged.pop(content["run_id"])
    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    for run_id, run in logged.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert len(client.get_metric_history(run_id, "val_kl")) >= 2
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert artifacts == {"best-weights.json", "search.html"}

    before = path.read_bytes()
    assert main(line) == 0
    assert "done before" in capfd.readouterr().out
    assert path.read_bytes() == before

    # As after a kill just before the end: the trials are found, and only the end is done again.
    path.unlink()
    assert main(line) == 0
    assert found(tmp_path)["trials"] == trials
    assert len(runs_of(tmp_path)) == 1 + len(trials) + len(finals)

    # More trials extend the search.
    more = arguments(f"--decoder {encoder} --num-trials 6 {flags}", tmp_path, data)
    assert main(more) == 0
    assert found(tmp_path)["trials"][:4] == trials
    assert len(found(tmp_path)["trials"]) == 6
    assert found(tmp_path)["final_runs"][:4] == finals


@pytest.mark.usefixtures("cluster")
def test_a_search_whose_trials_all_fail_ends_with_the_first_reason(data, encoder, tmp_path, capfd):
    line = arguments(
        f"--decoder {encoder} --num-trials 40 --epochs 1 --batch-size 4 --lr 1e30 --clip-norm 0",
        tmp_path,
        data,
    )
    assert main(line) == 1
    error = capfd.readouterr().err
    assert re.search(r"5 failed; the first, kl=\S+: .*not finite", error)
    assert "--retry-failed" in error
    assert "Traceback" not in error
    assert statuses(tmp_path)["FAILED"] >= 5
    # Collected later, in a thread of Ray, it would wait for ever.
    assert not any(isinstance(each, PlacementGroupResourceManager) for each in gc.get_objects())


def test_a_search_whose_process_was_killed_resumes_and_repeats_no_trial(data, encoder, tmp_path):
    line = arguments(
        f"--decoder {encoder} --num-trials 8 --epochs 6 --batch-size 1 --final-seeds 0 "
        "--stop-by none",
        tmp_path,
        data,
    )
    command = [sys.executable, "-m", "tune", *line]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 400
    while len(finished_trials(tmp_path)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = finished_trials(tmp_path)
    assert len(before) < 8

    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = finished_trials(tmp_path)
    assert after == found(tmp_path)["trials"]
    assert len(after) == 8
    assert all(record in after for record in before)
    assert statuses(tmp_path) == {"FINISHED": 9}
