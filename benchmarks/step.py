"""Times training steps of an encoder, data included, against a plain script of the same maths.

    python -m benchmarks.step

ResNet-50 from scratch, 480 x 640, batch 8, the `eml` readout and the `reference` loss, SGD: what
emlnet.training.fit does in a worker, in float32 and, where the CPU has it, in bfloat16, and
benchmarks/baseline/plain_training.py.  Writes benchmarks/results/step.json.
"""

import argparse
import os
from itertools import islice
from pathlib import Path

import torch

from benchmarks.baseline import plain_training
from benchmarks.data import pictures
from benchmarks.result_table import Row, line, save
from benchmarks.runner import Side, alternate, compare_memory
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.precision import has_bfloat16, to_channels_last
from emlnet.training.fit import BatchSource, train_epoch
from emlnet.training.state import Plan, start
from pipelines.ray_cluster.connection import WORKER_ENV
from pipelines.stages.encoder_stage import EncoderJob

PAPER = {
    "optimizer": "sgd",
    "schedule": "step",
    "lr": 0.01,
    "backbone_lr": 1.0,
    "readout_lr": 1.0,
    "clip_norm": 0.0,
    "terms": "reference",
}
"""The plan of the authors' training."""


class Next(BatchSource):
    """Epochs that are the next so many batches of a stream."""

    def __init__(self, stream, num_steps):
        self.stream, self.steps_per_epoch = stream, num_steps

    def train(self, epoch, start_step):
        return islice(self.stream, self.steps_per_epoch)

    def val(self):
        return ()


def endless(source):
    epoch = 0
    while True:
        yield from source.train(epoch, 0)
        epoch += 1


def encoder_config(backbone, size):
    return EncoderConfig(backbone=backbone, readout="eml", size=tuple(size), weights="none")


def ours(data, backbone, size, batch_size, num_steps, precision, loader_workers):
    plan = Plan(batch_size=batch_size, precision=precision, **PAPER)
    job = EncoderJob(
        data=(Path(data),),
        encoder=encoder_config(backbone, size),
        plan=plan,
        seed=0,
        loader_workers=loader_workers,
    )
    torch.manual_seed(0)
    model = to_channels_last(job.build(), torch.device("cpu"))
    source = job.source(0, 1, torch.device("cpu"))
    state = start(model, plan, source.steps_per_epoch)
    stream = endless(source)

    def repeat():
        state.step, state.loss_sums = 0, None
        return {"loss": train_epoch(state, plan, Next(stream, num_steps))["total"]}

    return repeat


def baseline(folder, backbone, size, batch_size, num_steps, num_workers):
    torch.manual_seed(0)
    model = Encoder(encoder_config(backbone, size))
    train = plain_training.trainer(model, Path(folder), batch_size, num_workers)
    return lambda: {"loss": sum(train(num_steps)) / num_steps}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="in a repetition")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--loader-workers", type=int, default=0, help="of either side")
    args = parser.parse_args()
    common = {
        "threads": args.threads,
        "backbone": args.backbone,
        "size": args.size,
        "batch_size": args.batch_size,
        "num_steps": args.steps,
    }
    precisions = ["float32"]
    if has_bfloat16():
        precisions.append("bfloat16")
    else:
        print("bfloat16: left out, this CPU has no instructions for it")
    with pictures() as (raw, packed):
        script = Side(
            "benchmarks.step:baseline", folder=str(raw), num_workers=args.loader_workers, **common
        )
        own = [
            Side(
                "benchmarks.step:ours",
                env=WORKER_ENV,
                data=str(packed),
                precision=precision,
                loader_workers=args.loader_workers,
                **common,
            )
            for precision in precisions
        ]
        *seconds, scripts = alternate((*own, script), repeats=args.repeats)
        for side in (*own, script):
            side.close()
    rows = []
    against = "plain script, float32"
    for precision, side, taken in zip(precisions, own, seconds, strict=True):
        row = Row(
            part=f"{args.steps} encoder steps, {args.backbone}, {precision}, data included",
            against=against,
            ours=taken,
            baseline=scripts,
            reach=1.3 if precision == "float32" else None,
            about={
                **common,
                "loader_workers": args.loader_workers,
                "images_per_second": args.batch_size * args.steps / min(taken),
            },
        )
        print(line(row))
        name = f"memory of encoder steps, {precision}"
        rows += [row, compare_memory(name, against, side, script)]
    save("step", rows, threads=args.threads)


if __name__ == "__main__":
    main()
