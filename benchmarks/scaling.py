"""The pieces that decide how training scales, and what they say of 1, 8 and 64 GPUs.

    python -m benchmarks.scaling counts              # bytes and operations, counted; seconds to run
    python -m benchmarks.scaling step --data SHARDS  # seconds of each stage of a step, on this CPU
    python -m benchmarks.scaling workers             # what a run costs besides its steps, 1 to 8
    python -m benchmarks.scaling gpus                # computed from the counts and assumed rates

Each prints a Markdown table of benchmarks/NOTES.md.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from emlnet.data.batches import prepare_image, prepare_targets
from emlnet.losses import LossWeights, saliency_loss
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.precision import to_channels_last
from emlnet.training.state import Plan, start, trainable
from shards.read.loader import Loader
from shards.read.reader import ShardReader

BACKBONES = ("resnet50", "nasnetalarge")
SIZE = (480, 640)
NUM_IMAGES = 10_000
"""SALICON's training pictures."""
RATES = {"resnet50": 100e12, "nasnetalarge": 35e12}
"""Assumed operations a second of an H100 in bfloat16, channels last: a tenth of its dense peak for
convolutions of a ResNet, a third of that for NASNet's many small separable ones."""
LINKS = {1: 0.0, 8: 300e9, 64: 40e9}
"""Assumed bytes a second that a ring of so many GPUs moves: NVLink, 400 Gb/s between machines."""
OVERLAP = 0.7
"""Assumed share of an all-reduce that is hidden behind the backward pass."""
IMAGES_PER_GPU = 8
FIXED_SECONDS = 2.0
"""Per epoch, whatever the number of workers: report, figures, checkpoint; see `workers`."""


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def counted(backbone):
    """Trainable parameters, and operations of one image forwards and backwards at SIZE."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.no_grad():
        model = Encoder(EncoderConfig(backbone=backbone, weights="none", size=SIZE))
        model(torch.rand(1, 3, *SIZE))
    # Backwards twice as much again; counted there, it is too much for grouped convolutions.
    return sum(p.numel() for p in trainable(model)), 3 * counter.get_total_flops()


def counts(args):
    rows = []
    for backbone in BACKBONES:
        parameters, operations = counted(backbone)
        rows.append(
            (
                backbone,
                f"{parameters / 1e6:.1f} M",
                f"{parameters * 4 / 1e6:.0f} MB",
                f"{operations / 1e9:.0f} G",
                f"{parameters * 4 * 4 / 1e6:.0f} MB",
            )
        )
    head = ("encoder", "parameters", "all-reduce a step", "operations an image", "checkpoint")
    table(head, rows)


def step(args):
    reader = ShardReader(args.data, "train")
    stored = [entry.length for entry in reader.entries]
    print(f"{sum(stored) / len(stored) / 1e3:.0f} kB read an image ({len(stored)} images)\n")
    plan = Plan(batch_size=args.batch_size, loss_weights=LossWeights(kl=2, cc=1, nss=1))
    rows = []
    for backbone in args.backbones:
        model = Encoder(EncoderConfig(backbone=backbone, weights="none", size=tuple(args.size)))
        model = to_channels_last(model, torch.device("cpu"))
        state = start(model, plan, 100)
        seconds = dict.fromkeys(
            ("read, decode", "prepare", "forward", "backward", "optimizer"), 0.0
        )
        batches = iter(Loader(reader, args.batch_size, shuffle=True).epoch(0))
        for number in range(args.steps + 1):
            marks = [time.perf_counter()]
            batch = next(batches)
            marks.append(time.perf_counter())
            image = prepare_image(batch)
            targets = prepare_targets(batch)
            marks.append(time.perf_counter())
            loss, _ = saliency_loss(model(image), targets, plan.loss_weights, "density")
            marks.append(time.perf_counter())
            loss.mean().backward()
            marks.append(time.perf_counter())
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            marks.append(time.perf_counter())
            if number:  # The first one warms up.
                for name, begin, end in zip(seconds, marks[:-1], marks[1:], strict=True):
                    seconds[name] += (end - begin) / args.steps / args.batch_size * 1e3
        rows.append((backbone, *(f"{value:.1f}" for value in seconds.values())))
    table(("ms an image", *seconds), rows)


def workers(args):
    import ray
    from ray.train import UserCallback

    from pipelines.config.options import Compute
    from pipelines.ray_cluster import connection
    from pipelines.ray_train import trainer
    from pipelines.stages.encoder_stage import EncoderJob
    from shards.build.writer import build
    from shards.layouts.synthetic import write_sample

    class Clock(UserCallback):
        """In the controller: its own CPU time, and when each epoch was reported."""

        def __init__(self, path):
            self.path = path

        def after_report(self, run_context, metrics, checkpoint):
            with self.path.open("a") as file:
                file.write(f"{time.time()} {time.process_time()}\n")

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_sample(folder / "raw", num_images=20, seed=0, progress=False)
        build(folder / "raw", folder / "shards", progress=False)
        connection.connect(Compute())
        ray.shutdown()
        ray.init(num_cpus=8, include_dashboard=False, address="local", logging_level="ERROR")
        for number in (1, 2, 4, 8):
            job = EncoderJob(
                data=(folder / "shards",),
                encoder=EncoderConfig(backbone="tiny", weights="none", size=(48, 64)),
                plan=Plan(epochs=args.epochs, batch_size=8),
                seed=0,
            )
            reports, began, own = folder / f"reports-{number}", time.time(), time.process_time()
            compute = Compute(num_workers=number, threads=1)
            trainer.train(job, folder / f"run-{number}" / "t" / "t", compute, [Clock(reports)])
            ended, own = time.time(), time.process_time() - own
            marks = [tuple(map(float, line.split())) for line in reports.read_text().splitlines()]
            (first, cpu), (last, cpu_last) = marks[0], marks[-1]
            rows.append(
                (
                    number,
                    f"{first - began:.1f}",
                    f"{(last - first) / (args.epochs - 1) * 1e3:.0f}",
                    f"{(cpu_last - cpu) / (args.epochs - 1) * 1e3:.0f}",
                    f"{ended - last:.1f}",
                    f"{own:.1f}",
                )
            )
        ray.shutdown()
    head = (
        "workers",
        "s to the first report",
        "ms an epoch",
        "ms CPU of the controller an epoch",
        "s to end",
        "s CPU of the driver",
    )
    table(head, rows)


def gpus(args):
    rows = []
    for backbone in BACKBONES:
        parameters, operations = counted(backbone)
        compute = IMAGES_PER_GPU * operations / RATES[backbone]
        for number, link in LINKS.items():
            moved = 2 * (number - 1) / number * parameters * 4
            waits = (1 - OVERLAP) * moved / link if link else 0.0
            steps = -(-NUM_IMAGES // (IMAGES_PER_GPU * number))
            epoch = steps * (compute + waits) + FIXED_SECONDS
            alone = -(-NUM_IMAGES // IMAGES_PER_GPU) * compute + FIXED_SECONDS
            rows.append(
                (
                    backbone,
                    number,
                    IMAGES_PER_GPU * number,
                    f"{compute * 1e3:.0f}",
                    f"{waits * 1e3:.1f}",
                    f"{epoch:.1f}",
                    f"{alone / epoch / number:.0%}",
                )
            )
    head = ("encoder", "GPUs", "batch", "ms compute", "ms waiting", "s an epoch", "efficiency")
    table(head, rows)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    for function in (counts, step, workers, gpus):
        part = parts.add_parser(function.__name__)
        part.set_defaults(run=function)
        if function is step:
            part.add_argument("--data", type=Path, required=True, help="folder of shards")
            part.add_argument("--backbones", nargs="+", default=["efficientnet_lite0", "resnet50"])
            part.add_argument("--size", type=int, nargs=2, default=SIZE)
            part.add_argument("--batch-size", type=int, default=2)
            part.add_argument("--steps", type=int, default=5)
        if function is workers:
            part.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
