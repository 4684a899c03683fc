"""A second Ray cluster with a dashboard comes up on the machine while workers train, and goes."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from pipelines.config.options import Compute
from pipelines.ray_cluster import connection
from pipelines.ray_train import trainer
from tests.pipelines.cluster.commands import ray_head
from tests.pipelines.cluster.faults import (
    FaultyJob,
    begun_twice,
    make_job,
    training,
    wait_until,
)


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder in which the clusters of this machine find each other; its path must be short."""
    folder = tempfile.mkdtemp(prefix="ray-")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    ray.shutdown()
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@ray.remote(num_cpus=0)
class TuneTrial:
    """Trains as a trial of Ray Tune does, whose workers Ray Train frees when Tune stops it."""

    def train(self, job: FaultyJob, storage: Path, compute: Compute) -> dict[str, Any]:
        return trainer.train(job, storage, compute)


@pytest.mark.usefixtures("ray_folder")
@pytest.mark.parametrize("in_trial", [False, True], ids=["command", "trial"])
def test_another_cluster_costs_no_restart(
    in_trial: bool, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    connection.connect(Compute(), include_dashboard=in_trial)
    job = make_job(data, tmp_path, "wait_at_gate", at=(1, 0), plan={"epochs": 2})

    def train_in_trial(*arguments: Any) -> Any:
        return ray.get(TuneTrial.remote().train.remote(*arguments))

    train = train_in_trial if in_trial else trainer.train
    with training(job, Compute(num_workers=1, max_failures=0), train) as content:
        wait_until(job.happened.exists, "no second epoch")
        with ray_head(tmp_path / "head.log", port=8265):  # Where Ray looks for a dashboard.
            time.sleep(5)  # Ray Train asks every second whether its controller lives.
        job.gate.touch()
        content.result()
    assert begun_twice(job) == 0
    told = "".join(capfd.readouterr())
    assert "Traceback" not in told, told
