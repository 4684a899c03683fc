"""A decoder's steps from cached readouts, against forwarding the frozen encoders at each step.

    python -m benchmarks.decoder

Two ResNet-50 with the paper's readouts and decoder, 480 x 640, batches of 8, random weights,
synthetic photographs.  Both sides train the same decoder on the same batches.  Prints JSON: seconds
a step, their ratio (to reach: 30), validation scores of both and the largest difference between
them (to stay below 0.5 %).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from emlnet.decoder import DecoderConfig
from emlnet.encoder import Encoder, EncoderConfig
from emlnet.fit import evaluate, train_epoch
from emlnet.model import EMLNet
from emlnet.state import Plan, start
from pipelines import readouts, trainer
from pipelines.config import Compute
from pipelines.decoder import DecoderJob
from pipelines.encoders import EncoderJob
from shards.sample import write_sample
from shards.writer import build

NUM_IMAGES, BATCH, EPOCHS = 40, 8, 2


def measure(size: tuple[int, int]) -> dict[str, object]:
    """Both sides, one after the other."""
    config = EncoderConfig(backbone="resnet50", readout="eml", size=size, weights="none")
    decoder, cpu = DecoderConfig(readout="eml"), torch.device("cpu")
    plan = Plan(epochs=EPOCHS, batch_size=BATCH, lr=1e-2)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "shards"
        write_sample(Path(scratch) / "raw", num_images=NUM_IMAGES, seed=0, progress=False)
        build(Path(scratch) / "raw", data, progress=False)
        torch.manual_seed(0)
        encoders = tuple(Encoder(config).eval() for _ in range(2))
        began = time.perf_counter()
        caches = tuple(
            readouts.build(Path(scratch) / f"cache{n}", data, ("train", "val"), encoder)
            for n, encoder in enumerate(encoders)
        )
        answer: dict[str, object] = {"caching_s": round(time.perf_counter() - began, 1)}
        forwarding = EncoderJob(data=data, encoder=config, plan=plan, seed=0)
        torch.manual_seed(1)
        net = EMLNet(encoders, decoder).to(memory_format=torch.channels_last)
        sides = [("forwarded", net, forwarding.source(0, 1, cpu))]
        cached = DecoderJob(
            data=data, encoders=encoders, caches=caches, decoder=decoder, plan=plan, seed=0
        )
        seconds, scores = {}, {}
        for name in ("forwarded", "cached"):
            if name == "cached":
                torch.manual_seed(1)
                sides.append((name, cached.build(), cached.source(0, 1, cpu)))
            _, model, source = sides[-1]
            state = start(model, plan, source.steps_per_epoch)
            began = time.perf_counter()
            for epoch in range(EPOCHS):
                train_epoch(state, plan, source.train(epoch, 0))
                state.step, state.loss_sums = 0, None
            num_steps = EPOCHS * source.steps_per_epoch
            seconds[name] = (time.perf_counter() - began) / num_steps
            scores[name] = evaluate(model, source.val())
    differences = [abs(scores["cached"][k] / v - 1) for k, v in scores["forwarded"].items()]
    return {
        **answer,
        "seconds_a_step": seconds,
        "ratio": seconds["forwarded"] / seconds["cached"],
        "scores": scores,
        "largest_difference_percent": 100 * max(differences),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    given = parser.parse_args()
    trainer.connect(Compute())
    print(json.dumps(measure(tuple(given.size)), indent=1))


if __name__ == "__main__":
    main()
