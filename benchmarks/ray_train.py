"""The cost of Ray Train per step and at the start of a stage, and the gain of a second worker.

    python -m benchmarks.ray_train

Ray workers and a plain process train the same epochs of the same encoder, and write how many
seconds the steps of each epoch took.  Trainings of both kinds take turns.  Start-up is the time of
a whole stage minus the worker's time for the model and the steps.
Writes benchmarks/results/ray_train.json.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import ray
import torch

from benchmarks.data import pictures
from benchmarks.result_table import Row, line, save
from benchmarks.runner import REPEATS, Side
from benchmarks.step import endless
from emlnet.models.encoder import EncoderConfig
from emlnet.models.precision import to_channels_last
from emlnet.training.fit import train_epoch
from emlnet.training.state import Plan, start
from pipelines.config.options import Compute
from pipelines.ray_cluster import connection
from pipelines.ray_train import trainer
from pipelines.stages.encoder_stage import EncoderJob, ShardSource

LIMIT = 15
"""Seconds that the start and the end of a stage may take after ray.init."""


@dataclass(frozen=True, kw_only=True)
class TimedJob(EncoderJob):
    """Epochs of a few steps.  Each rank leaves `<epoch>-<rank>`, the seconds of an epoch's steps,
    and the times of its first and last moment in `build` and `steps`.
    """

    folder: Path
    num_steps: int

    def build(self):
        import timm  # noqa: F401  # Backbones import timm or torchvision; the tiny one does not.

        self.leave("build", time.time())
        return super().build()

    def source(self, rank, world_size, device):
        return TimedSource(self, rank, world_size, device)

    def leave(self, name, value):
        (self.folder / name).write_text(repr(value))

    def left(self, name):
        return float((self.folder / name).read_text())

    def seconds(self, num_workers):
        """Of the slowest rank in each epoch but the first, which warms up."""
        epochs, ranks = range(1, self.plan.epochs), range(num_workers)
        return tuple(max(self.left(f"{epoch}-{rank}") for rank in ranks) for epoch in epochs)


class TimedSource(ShardSource):
    def __init__(self, job, rank, world_size, device):
        super().__init__(job, rank, world_size, device)
        self.job, self.rank = job, rank
        self.batches = endless(super())
        self.steps_per_epoch = job.num_steps

    def evaluate(self, model):
        return dict.fromkeys(("kl", "nss", "cc", "sim", "auc_judd"), 0.0)

    def train(self, epoch, start_step):
        began = time.perf_counter()
        yield from islice(self.batches, self.job.num_steps)
        self.job.leave(f"{epoch}-{self.rank}", time.perf_counter() - began)
        self.job.leave("steps", time.time())


def make_job(data, folder, num_steps, epochs, backbone, size, batch_size):
    Path(folder).mkdir(parents=True)
    return TimedJob(
        data=(Path(data),),
        encoder=EncoderConfig(backbone=backbone, weights="none", size=tuple(size)),
        plan=Plan(epochs=epochs, batch_size=batch_size),
        seed=0,
        folder=Path(folder),
        num_steps=num_steps,
    )


def alone(**options):
    """The epochs of a job without Ray."""
    os.nice(15 - os.getpriority(os.PRIO_PROCESS, 0))  # As Ray's workers are.
    job = make_job(**options)

    def repeat():
        torch.manual_seed(0)
        model = to_channels_last(job.build(), torch.device("cpu"))
        source = job.source(0, 1, torch.device("cpu"))
        state = start(model, job.plan, job.num_steps)
        for _ in range(job.plan.epochs):
            train_epoch(state, job.plan, source)
            state.end_epoch()
        return {"seconds": job.seconds(1)}

    return repeat


def time_steps(folder, options, rounds):
    """Rows of one Ray worker with two threads, and of two with one, against a plain process."""
    rows = []
    for num_workers, threads, reach in ((1, os.cpu_count(), 0.98), (2, 1, 1.7)):
        ours, baseline = [], []
        for number in range(rounds):
            place = folder / f"steps-{num_workers}-{number}"
            job = make_job(folder=place / "ray", **options)
            compute = Compute(num_workers=num_workers, threads=threads)
            trainer.train(job, place / "training", compute)
            ours += job.seconds(num_workers)
            given = {**options, "data": str(options["data"]), "folder": str(place / "plain")}
            plain = Side(
                "benchmarks.ray_train:alone", threads=threads, env=connection.WORKER_ENV, **given
            )
            plain()
            plain.close()
            baseline += plain.notes["seconds"]
        row = Row(
            part=f"{options['num_steps']} steps in Ray Train, {num_workers} x {threads} threads",
            against=f"one process without Ray, {threads} threads",
            ours=tuple(ours),
            baseline=tuple(baseline),
            reach=reach,
            about={key: value for key, value in options.items() if key != "data"},
        )
        print(line(row), flush=True)
        rows.append(row)
    return rows


def time_start_up(folder, options, repeats):
    """Rows of what a stage costs around its steps, with one worker and with two."""
    rows = []
    for num_workers in (1, 2):
        stages = []
        for number in range(repeats):
            place = folder / f"start-{num_workers}-{number}"
            job = make_job(folder=place / "job", **{**options, "num_steps": 1, "epochs": 1})
            began = time.time()
            compute = Compute(num_workers=num_workers, threads=1)
            trainer.train(job, place / "training", compute)
            stages.append(time.time() - began - (job.left("steps") - job.left("build")))
        row = Row(
            part=f"Ray Train around a stage, {num_workers} worker{'s' * (num_workers > 1)}",
            against=f"limit of {LIMIT} s after ray.init",
            ours=tuple(stages),
            baseline=(LIMIT,),
            reach=1,
        )
        print(line(row), flush=True)
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="in an epoch")
    parser.add_argument("--epochs", type=int, default=5, help="of a training; the first warms up")
    parser.add_argument("--rounds", type=int, default=2, help="trainings of either kind")
    parser.add_argument("--starts", type=int, default=REPEATS, help="of stages")
    args = parser.parse_args()
    connection.connect(Compute())
    with pictures() as (_, packed), tempfile.TemporaryDirectory(prefix="ray-train-") as folder:
        options = {
            "data": packed,
            "backbone": args.backbone,
            "size": args.size,
            "batch_size": args.batch_size,
            "num_steps": args.steps,
            "epochs": args.epochs,
        }
        rows = time_steps(Path(folder), options, args.rounds)
        rows += time_start_up(Path(folder), {**options, "backbone": "tiny"}, args.starts)
    ray.shutdown()
    save("ray_train", rows, threads=os.cpu_count())


if __name__ == "__main__":
    main()
