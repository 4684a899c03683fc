"""What goes wrong in a worker, and what training makes of it."""

import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.options import Compute
from pipelines.ray_train import trainer
from tests.pipelines.cluster.faults import PAIR, begun_twice, difference, make_job, steps

pytestmark = pytest.mark.usefixtures("local_ray")


def test_a_killed_worker_costs_a_few_steps_and_no_bit(
    data: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    job = make_job(data, tmp_path, "kill", at=(1, 5), rank=1)
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
    _, found, stacks = told.partition("rank 1 made no progress for 12 s and is ended; its stacks:")
    assert found
    assert "in hang" in stacks


def test_an_input_that_is_refused_is_not_tried_again(data: Path, tmp_path: Path) -> None:
    job = make_job(data, tmp_path, "bad_input", at=(0, 1))
    with pytest.raises(ValueError, match=r"^encoder tiny: shard 3 is broken$"):
        trainer.train(job, tmp_path / "training", Compute(num_workers=1, max_failures=1))
    assert len(steps(job)) == 2
