"""What Ray Train costs: per step, at the start of a stage, and what a second worker gives.

    python -m benchmarks.ray_train

The same steps of the same encoder, in a Ray worker and in a plain process, in turn: a worker waits
at a named pipe for each repetition, and a side's turn is over when its workers wait again, so that
what ends an epoch, or training, falls into nobody's steps.  Two workers against one process, and
beside them two plain processes: the limit of the machine.  Start-up is the time of a whole stage
less what its worker spends on the model and the steps, by cause.  Writes
benchmarks/results/ray_train.json.
"""

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
import torch
from ray.train import UserCallback

from benchmarks.data import pictures
from benchmarks.records import Row, line, save
from benchmarks.runner import REPEATS, Side, alternate, compare
from benchmarks.step import Next
from benchmarks.waiting import RaySide, make_job
from emlnet.models.precision import to_channels_last
from emlnet.training.fit import train_epoch
from emlnet.training.state import start
from pipelines.config.options import Compute
from pipelines.ray_cluster import connection
from pipelines.ray_train import trainer

LIMIT = 15
"""Seconds that the start and the end of a stage may take after ray.init."""
CAUSES = ("controller", "placement", "imports and process group", "report, checkpoint, end")
"""What of a stage is Ray's: until its controller runs; until a worker's process exists; until that
calls the job; and from the last step until the driver goes on."""


def alone(**options):
    """The same steps without Ray."""
    os.nice(15 - os.getpriority(os.PRIO_PROCESS, 0))  # As Ray's workers are.
    job = make_job(**options)
    job.folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = to_channels_last(job.build(), torch.device("cpu"))
    source = job.source(0, 1, torch.device("cpu"))
    state = start(model, job.plan, job.num_steps)

    def repeat():
        state.step, state.loss_sums = 0, None
        train_epoch(state, job.plan, Next(source.batches, job.num_steps))

    return repeat


class Arrival(UserCallback):
    """Leaves the time at which it reaches Ray Train's controller."""

    def __init__(self, folder):
        self.path, self.driver = folder / "controller.stamp", os.getpid()

    def __setstate__(self, state):
        self.__dict__ = state
        if os.getpid() != self.driver and not self.path.exists():
            self.path.write_text(repr(time.time()))


def start_up(job, compute, storage):
    """Seconds of a whole stage that are Ray's, by cause."""
    job.folder.mkdir(parents=True)
    began = time.time()
    trainer.train(job, storage, compute, [Arrival(job.folder)])
    ended = time.time()
    controller, process, build, steps = (
        float((job.folder / f"{name}.stamp").read_text())
        for name in ("controller", "process", "build", "steps")
    )
    parts = controller - began, process - controller, build - process, ended - steps
    return dict(zip(CAUSES, parts, strict=True))


def time_start_up(folder, options, repeats):
    """Rows of what a stage costs around its steps, with one worker and with two."""
    rows = []
    for num_workers in (1, 2):
        stages = []
        for number in range(repeats):
            place = folder / f"start-{num_workers}-{number}"
            job = make_job(folder=place / "job", num_steps=1, epochs=1, waits=False, **options)
            compute = Compute(num_workers=num_workers, threads=1)
            stages.append(start_up(job, compute, place / "training"))
        medians = {cause: statistics.median(s[cause] for s in stages) for cause in CAUSES}
        row = Row(
            part=f"Ray Train around a stage, {num_workers} worker{'s' * (num_workers > 1)}",
            against=f"limit of {LIMIT} s after ray.init",
            ours=tuple(sum(stage.values()) for stage in stages),
            baseline=(LIMIT,),
            reach=1,
            about={"causes": medians},
        )
        print(line(row), {cause: round(seconds, 2) for cause, seconds in medians.items()})
        rows.append(row)
    return rows


def time_steps(folder, options, num_steps, repeats, threads):
    """Steps in one Ray worker against the same without Ray, `threads` each; then in two workers
    and in two plain processes against a plain one, one thread each.
    """
    epochs = repeats + 2  # The first warms up, the last ends training.
    common = {"num_steps": num_steps, "epochs": epochs, **options}

    def plain(name, threads, **changed):
        more = {"data": str(options["data"]), "folder": str(folder / name), **changed}
        side = "benchmarks.ray_train:alone"
        return Side(side, threads=threads, env=connection.WORKER_ENV, **{**common, **more})

    def in_ray(name, num_workers, threads):
        place = folder / f"{name}-{num_workers}"
        job = make_job(folder=place / "job", **common)
        return RaySide(job, Compute(num_workers=num_workers, threads=threads), place / "training")

    without = plain("alone", threads)
    within = in_ray("steps", 1, threads)
    part = f"{num_steps} steps in a Ray Train worker"
    about = {k: v for k, v in options.items() if k != "data"}
    rows = [
        compare(part, "the same without Ray", within, without, reach=0.98, repeats=repeats, **about)
    ]
    within.close()
    without.close()
    # Beside no other training of Ray's: one takes time even while it waits, as these two workers do
    # while the plain processes step.
    two, whole = in_ray("pair", 2, 1), plain("whole", 1)
    halves = [plain(f"half-{n}", 1, batch_size=options["batch_size"] // 2) for n in range(2)]
    with ThreadPoolExecutor() as pool:

        def at_once():
            return max(pool.map(Side.__call__, halves))

        pair, unbound, single = alternate((two, at_once, whole), repeats=repeats)
    for side in (two, *halves, whole):
        side.close()
    for part, seconds, reach in (
        ("two Ray Train workers", pair, 1.7),
        # What the machine's cores give to two processes that never wait for each other.
        ("two processes of half a batch without Ray", unbound, None),
    ):
        row = Row(
            part=f"{num_steps} steps, {part}, one thread each",
            against="one process without Ray, one thread",
            ours=seconds,
            baseline=single,
            reach=reach,
            about=about,
        )
        print(line(row), flush=True)
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="in a repetition")
    parser.add_argument("--repeats", type=int, default=7, help="of steps")
    parser.add_argument("--starts", type=int, default=REPEATS, help="of stages")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    os.environ.update(connection.RAY_ENV)
    began = time.monotonic()
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        logging_config=ray.LoggingConfig(encoding="TEXT", log_level="ERROR"),
    )
    print(f"ray.init: {time.monotonic() - began:.1f} s")
    with pictures() as (_, packed), tempfile.TemporaryDirectory(prefix="ray-train-") as folder:
        options = {
            "data": packed,
            "backbone": args.backbone,
            "size": args.size,
            "batch_size": args.batch_size,
        }
        rows = time_steps(Path(folder), options, args.steps, args.repeats, args.threads)
        tiny = {**options, "backbone": "tiny"}
        rows += time_start_up(Path(folder), tiny, args.starts)
    ray.shutdown()
    save("ray_train", rows, threads=args.threads)


if __name__ == "__main__":
    main()
