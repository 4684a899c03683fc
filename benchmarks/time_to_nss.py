"""Seconds of training until an encoder reaches an NSS on OSIE's validation pictures.

    python -m benchmarks.time_to_nss

EfficientNet-Lite0 from ImageNet weights at 240 x 320 on both sides: the default plan and readout,
against the authors' recipe and readout in a plain script, which stops at four times our time.
Validation (`mit` rules) is not counted.  Writes benchmarks/results/time_to_nss.json.
"""

import argparse
import os
import time
from pathlib import Path

import torch

from benchmarks.baseline.plain_training import trainer
from benchmarks.data import pictures
from benchmarks.result_table import Row, line, save
from benchmarks.runner import Side
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.precision import to_channels_last
from emlnet.training.fit import train_epoch
from emlnet.training.state import Plan, start
from emlnet.training.validation import evaluate
from pipelines.ray_cluster.connection import WORKER_ENV
from pipelines.stages.encoder_stage import EncoderJob

PATIENCE = 4
"""Times our seconds after which the baseline is stopped."""


def until(target, train, score, longest):
    """Seconds of training, and the NSS after each epoch, until the target or the longest time."""
    history, seconds = [], 0.0
    for epoch in range(1000):
        began = time.perf_counter()
        if not train(epoch):
            break
        seconds += time.perf_counter() - began
        history.append([round(seconds, 1), score()])
        print(f"epoch {epoch + 1}: {seconds:.0f} s, NSS {history[-1][1]:.3f}", flush=True)
        if history[-1][1] >= target or seconds >= longest:
            break
    return {"seconds": seconds, "history": history}


def prepare(data, size, seed, readout, **plan):
    config = EncoderConfig(size=tuple(size), readout=readout)
    job = EncoderJob(data=(Path(data),), encoder=config, plan=Plan(**plan), seed=seed)
    torch.manual_seed(seed)
    return job, job.build(), job.source(0, 1, torch.device("cpu"))


def ours(folder, data, size, target, longest, seed, epochs):
    job, model, source = prepare(data, size, seed, "density", epochs=epochs)
    state = start(to_channels_last(model, torch.device("cpu")), job.plan, source.steps_per_epoch)

    def train(epoch):
        if epoch == job.plan.epochs:
            return False
        train_epoch(state, job.plan, source)
        state.end_epoch()
        return True

    return lambda: until(target, train, lambda: evaluate(model, source.val())["nss"], longest)


def baseline(folder, data, size, target, longest, seed, epochs):
    _, model, source = prepare(data, size, seed, "eml")
    assert isinstance(model, Encoder)
    steps = trainer(model, Path(folder), batch_size=8, num_workers=0)

    def train(epoch):
        steps(steps.steps_per_epoch)
        steps.schedule.step()
        return True

    return lambda: until(target, train, lambda: evaluate(model, source.val())["nss"], longest)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=float, default=3.0, help="NSS on val")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320))
    parser.add_argument("--epochs", type=int, default=3, help="of our plan")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    common = {k: getattr(args, k) for k in ("size", "target", "seed", "epochs", "threads")}
    with pictures() as (raw, packed):
        if raw.name == "synthetic":
            raise SystemExit("this needs OSIE; name its folder in EMLNET_OSIE")
        common |= {"folder": str(raw), "data": str(packed)}
        own = Side("benchmarks.time_to_nss:ours", env=WORKER_ENV, longest=1e9, **common)
        own()
        own.close()
        mine = own.notes
        if mine["history"][-1][1] < args.target:
            raise SystemExit(f"our own plan ended at NSS {mine['history'][-1][1]:.3f}")
        longest = PATIENCE * mine["seconds"]
        other = Side("benchmarks.time_to_nss:baseline", longest=longest, **common)
        other()
        other.close()
        theirs = other.notes
    reached = theirs["history"][-1][1] >= args.target
    height, width = args.size
    row = Row(
        part=f"training until NSS {args.target:g} on OSIE val, Lite0, {height} x {width}",
        against=f"the authors' recipe, plain script{'' if reached else ', not there yet'}",
        ours=(mine["seconds"],),
        baseline=(theirs["seconds"],),
        reach=PATIENCE,
        about={"ours": mine["history"], "baseline": theirs["history"], "seed": args.seed},
    )
    print(line(row))
    save("time_to_nss", [row], threads=args.threads)


if __name__ == "__main__":
    main()
