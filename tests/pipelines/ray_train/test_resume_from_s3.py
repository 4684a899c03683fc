"""Two workers that read over S3, killed in the middle of an epoch, go on at the next sample."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import s3fs
import torch

from emlnet.data.samples import Batch
from emlnet.models.encoder import EncoderConfig
from emlnet.training.state import Plan
from pipelines.config.options import Compute
from pipelines.ray_train import trainer
from pipelines.stages.encoder_stage import EncoderJob, ShardSource
from shards.build.writer import build
from shards.read.reader import ShardReader, step_keys
from tests.pipelines.cluster.faults import last_checkpoint, wait_until
from tests.shards.conftest import s3, s3_server  # noqa: F401
from tests.shards.layouts.test_osie import OSIE, needs_osie

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

TINY = EncoderConfig(backbone="tiny", weights="none", size=(48, 64))


class Pictures(NamedTuple):
    """Shards, and how they are trained on."""

    shards: Path
    batch_size: int
    checkpoint_every: int

    @property
    def dies_at(self) -> int:
        """Step of the second epoch, from 0, that the last worker reads when it is killed."""
        return self.checkpoint_every + 1


def open_pictures(name: str, data: Path, folder: Path) -> Pictures:
    """A few synthetic pictures, or OSIE's photographs."""
    if name == "synthetic":
        return Pictures(data, batch_size=2, checkpoint_every=2)
    build(OSIE, folder, progress=False)
    return Pictures(folder, batch_size=8, checkpoint_every=20)


@dataclass(frozen=True, kw_only=True)
class TracedJob(EncoderJob):
    """Writes down what it reads; its last worker is killed once, in the middle of an epoch.

    training: where its checkpoints lie; one of that epoch has arrived when the worker is killed.
    """

    trace: Path
    training: Path
    dies_at: int

    def has_saved(self) -> bool:
        """Whether the only checkpoint within the second epoch before the kill has arrived."""
        return last_checkpoint(self.training) == (1, self.plan.checkpoint_every)

    def source(self, rank: int, world_size: int, device: torch.device) -> ShardSource:
        os.environ["EMLNET_SHARD_CACHE"] = str(self.trace / "cache")
        source = ShardSource(self, rank, world_size, device)
        read = source._train.epoch

        def traced(epoch: int, start_step: int = 0) -> Iterator[Batch]:
            for step, batch in enumerate(read(epoch, start_step), start_step):
                killed = self.trace / "killed"
                dies = epoch == 1 and step == self.dies_at and rank == world_size - 1
                if dies and not killed.exists():
                    wait_until(self.has_saved, "no checkpoint within the epoch")
                    killed.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                keys = [k for k, w in zip(batch.keys, batch.weight.tolist(), strict=True) if w]
                line = json.dumps([world_size, epoch, step, rank, keys])
                with (self.trace / "lines").open("a") as file:
                    file.write(line + "\n")
                yield batch

        source._train.epoch = traced  # type: ignore[method-assign]
        return source


@pytest.mark.parametrize(
    ("name", "num_workers"), [("synthetic", 2), pytest.param("osie", 1, marks=needs_osie)]
)
def test_a_killed_run_resumes_at_the_next_sample_with_as_many_or_fewer_workers(
    s3,  # noqa: F811
    name: str,
    num_workers: int,
    data: Path,
    tmp_path: Path,
) -> None:
    pictures = open_pictures(name, data, tmp_path / "osie")
    s3fs.S3FileSystem().put(str(pictures.shards), "tests/set", recursive=True)
    trace = tmp_path / "trace"
    trace.mkdir()
    job = TracedJob(
        data=("s3://tests/set",),
        encoder=TINY,
        plan=Plan(
            epochs=2,
            batch_size=pictures.batch_size,
            checkpoint_every=pictures.checkpoint_every,
        ),
        seed=3,
        trace=trace,
        training=tmp_path / "run",
        dies_at=pictures.dies_at,
    )
    first = Compute(num_workers=2, max_failures=0)
    with pytest.raises(RuntimeError):
        trainer.train(job, tmp_path / "run", first)
    before = (trace / "lines").read_text().splitlines()
    trainer.train(job, tmp_path / "run", Compute(num_workers=num_workers, max_failures=0))
    after = [json.loads(line) for line in (trace / "lines").read_text().splitlines()[len(before) :]]
    reader = ShardReader(pictures.shards, "train")
    num_steps = -(-len(reader) // pictures.batch_size)
    started = min(step for _, _, step, _, _ in after)
    assert {world for world, *_ in after} == {num_workers}
    assert {epoch for _, epoch, *_ in after} == {1}
    assert started == pictures.checkpoint_every
    done = {step: ranks for step, ranks in _by_step(before, 1).items() if step < started}
    seen = {**done, **_by_step(map(json.dumps, after), 1)}
    order = [step_keys(reader, pictures.batch_size, 3, 1, step) for step in range(num_steps)]
    assert [seen[step] for step in range(num_steps)] == order
    assert sorted(key for keys in seen.values() for key in keys) == sorted(reader.keys)


def _by_step(lines: Iterator[str] | list[str], epoch: int) -> dict[int, list[str]]:
    """The keys of each step of an epoch, those of the first rank first."""
    steps: dict[int, dict[int, list[str]]] = {}
    for _, at, step, rank, keys in map(json.loads, lines):
        if at == epoch:
            steps.setdefault(step, {})[rank] = keys
    return {
        step: [key for rank in sorted(ranks) for key in ranks[rank]]
        for step, ranks in sorted(steps.items())
    }
