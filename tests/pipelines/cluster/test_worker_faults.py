"""What goes wrong in a worker, and what training makes of it."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from emlnet.training import checkpoint
from emlnet.training.divergence import DivergedError
from pipelines.config.options import Compute
from pipelines.ray_train import trainer
from tests.pipelines.cluster.faults import (
    ALONE,
    PAIR,
    begun_twice,
    difference,
    make_job,
    steps,
)

pytestmark = pytest.mark.usefixtures("local_ray")


def test_a_killed_worker_costs_a_few_steps_and_no_bit(
    data: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    job = make_job(data, tmp_path, "kill", at=(2, 5), rank=1)
    content = trainer.train(job, tmp_path / "training", PAIR)
    assert job.happened.exists()
    assert difference(content, undisturbed) == []
    assert content["history"][-1]["scores"] == undisturbed["history"][-1]["scores"]
    # Steps since the last checkpoint, and the one that never ended.
    assert 1 <= begun_twice(job) <= job.plan.checkpoint_every


def test_a_worker_that_hangs_is_named_with_its_stack_and_started_anew(
    data: Path,
    tmp_path: Path,
    undisturbed: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As in every command; here Ray was imported before pipelines could say so.
    monkeypatch.setattr("ray._private.ray_logging.RAY_DEDUP_LOGS", False)
    job = make_job(data, tmp_path, "hang", at=(1, 3), rank=1)
    compute = Compute(num_workers=2, max_failures=1, timeout=12, threads=1)
    began = time.monotonic()
    content = trainer.train(job, tmp_path / "training", compute)
    assert difference(content, undisturbed) == []
    assert time.monotonic() - began < 300  # Not the 1000 s that it would hang.
    assert 1 <= begun_twice(job) <= job.plan.checkpoint_every
    told = "".join(capfd.readouterr())
    hung = re.search(r"rank 1 has made no progress for \d+ s, it is at", told)
    assert hung
    assert "in hang" in told[hung.end() :]
    assert "time.sleep(1000)" in told[hung.end() :]
    assert "rank 0 has made no progress" in told


def test_a_loss_that_is_not_a_number_stops_at_once_naming_step_and_samples(
    data: Path, tmp_path: Path
) -> None:
    job = make_job(data, tmp_path, "nan", at=(1, 3), plan={"checkpoint_every": 1})
    with pytest.raises(DivergedError, match=r"step 4 of 6 in epoch 2.* kept.*samples") as caught:
        trainer.train(job, tmp_path / "training", ALONE)
    named = str(caught.value).rpartition("samples of that step: ")[2].split(", ")
    assert named == job.source(0, 1, torch.device("cpu")).keys(1, 3)
    assert len(named) == 2
    assert steps(job)[-1][:2] == (1, 3)
    kept = sorted((tmp_path / "training").glob("checkpoint_2*"))[-1]
    last = checkpoint.read(kept)
    assert (last["epoch"], last["step"]) == (1, 3)
    assert all(value.isfinite().all() for value in last["model"].values())


def test_steps_without_a_finite_gradient_are_skipped_and_counted_where_asked(
    data: Path, tmp_path: Path
) -> None:
    job = make_job(data, tmp_path, "nan", at=(1, 3), plan={"on_nan": "skip", "epochs": 2})
    content = trainer.train(job, tmp_path / "training", ALONE)
    assert [report["skipped"] for report in content["history"]] == [0, 1]
    assert all(value.isfinite().all() for value in content["model"].values())


def test_storage_that_takes_no_checkpoint_stops_with_the_reason_and_the_last_one_intact(
    data: Path, tmp_path: Path
) -> None:
    job = make_job(data, tmp_path, "refuse_storage", at=(1, 2))
    with pytest.raises(ValueError, match=r"takes no checkpoint .*the last good one is kept"):
        trainer.train(job, tmp_path / "training", ALONE)
    kept = sorted((tmp_path / "training").glob("checkpoint_2*"))
    assert [checkpoint.read(folder)["step"] for folder in kept][-1] == 2
    content = trainer.train(job, tmp_path / "training", ALONE)
    assert [report["epoch"] for report in content["history"]] == [1, 2, 3, 4]
    # Training waits for one checkpoint before it saves the next.
    assert begun_twice(job) <= 2 * job.plan.checkpoint_every


def test_an_input_that_is_refused_is_not_tried_again(data: Path, tmp_path: Path) -> None:
    job = make_job(data, tmp_path, "bad_input", at=(0, 1))
    with pytest.raises(ValueError, match=r"^encoder tiny: shard 3 is broken$"):
        trainer.train(job, tmp_path / "training", ALONE)
    assert len(steps(job)) == 2
