"""Ray Train around the loops: shares, failures, resuming."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

from emlnet.models.encoder import EncoderConfig
from emlnet.training import checkpoint
from emlnet.training.divergence import DivergedError
from emlnet.training.state import Plan
from pipelines.config.options import Compute
from pipelines.ray_train import trainer
from pipelines.stages.encoder_stage import EncoderJob, ShardSource

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

TINY = EncoderConfig(backbone="tiny", weights="none", size=(48, 64))
ONCE = Compute(max_failures=0)


def job(data: Path, **plan: object) -> EncoderJob:
    settings = {"epochs": 2, "batch_size": 4, **plan}
    return EncoderJob(data=(data,), encoder=TINY, plan=Plan(**settings), seed=1)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class FailingJob(EncoderJob):
    """Fails in its second epoch, the first time."""

    marker: Path

    def source(self, rank: int, world_size: int, device: torch.device) -> ShardSource:
        return FailingSource(self, rank, world_size, device)


class FailingSource(ShardSource):
    def __init__(self, job: FailingJob, rank: int, world_size: int, device: torch.device) -> None:
        super().__init__(job, rank, world_size, device)
        self.marker = job.marker

    def train(self, epoch: int, start_step: int):  # type: ignore[no-untyped-def]
        if epoch == 1 and not self.marker.exists():
            self.marker.touch()
            raise RuntimeError("the power went out")
        return super().train(epoch, start_step)


def test_an_interrupted_run_resumes_and_ends_bit_equal(data: Path, tmp_path: Path) -> None:
    whole = trainer.train(job(data), tmp_path / "whole", ONCE)
    broken = FailingJob(**vars(job(data)), marker=tmp_path / "failed")
    with pytest.raises(RuntimeError, match="the power went out"):
        trainer.train(broken, tmp_path / "broken", ONCE)
    resumed = trainer.train(broken, tmp_path / "broken", ONCE)
    assert [report["epoch"] for report in resumed["history"]] == [1, 2]
    assert whole["model"].keys() == resumed["model"].keys()
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    # Killed while Ray Train wrote its list of checkpoints, and the newest one was half copied.
    listed = tmp_path / "broken" / CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
    listed.write_text(listed.read_text()[:200])
    half = tmp_path / "broken" / "checkpoint_2999-01-01_00-00-00.000000"
    half.mkdir()
    (half / checkpoint.FILE).write_bytes(b"PK")
    again = trainer.train(broken, tmp_path / "broken", ONCE)
    assert again["history"] == resumed["history"]


def test_a_batch_that_workers_cannot_share_is_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch of 1 cannot be shared by 2 workers"):
        trainer.train(job(data, batch_size=1), tmp_path / "run", Compute(num_workers=2))


def test_more_workers_than_cpus_is_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="999 workers need one CPU each"):
        trainer.train(job(data), tmp_path / "run", Compute(num_workers=999))


@pytest.mark.slow
def test_two_workers_report_each_epoch_once_and_one_traces(data: Path, tmp_path: Path) -> None:
    compute = Compute(num_workers=2, profile=True)
    content = trainer.train(job(data, precision="bfloat16"), tmp_path / "run", compute)
    assert [report["epoch"] for report in content["history"]] == [1, 2]
    assert len(content["random"]) == 2
    assert (tmp_path / "run" / trainer.TRACE).stat().st_size > 10_000


def test_a_diverged_loss_stops_with_the_step_and_its_samples(data: Path, tmp_path: Path) -> None:
    diverging = job(data, lr=1e30, optimizer="sgd", clip_norm=0, warmup=0.6)
    with pytest.raises(DivergedError, match=r"not finite at step \d of 3 in epoch \d") as caught:
        trainer.train(diverging, tmp_path / "run", ONCE)
    found = re.search(r"at step (\d) .*epoch (\d).*samples of that step: (.*)", str(caught.value))
    assert found
    step, epoch = int(found[1]), int(found[2])
    source = diverging.source(0, 1, torch.device("cpu"))
    assert found[3].split(", ") == source.keys(epoch - 1, step - 1)
    assert not list((tmp_path / "run").glob("checkpoint_*"))
