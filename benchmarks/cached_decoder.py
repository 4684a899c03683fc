"""A decoder's steps from cached readouts, against forwarding the frozen encoders at each step.

    python -m benchmarks.cached_decoder

Two ResNet-50 with the paper's readouts, decoder and plan, 480 x 640, batches of 8, random weights
whose BatchNorm fits the pictures, synthetic photographs.  Both sides train the same decoder on the
same batches, an epoch per repetition; their validation scores should differ by less than 0.5 %.
(With AdamW they differ by more: the gradient of a bias before BatchNorm is only rounding errors,
which AdamW scales up to whole steps.)
Writes benchmarks/results/cached_decoder.json.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.result_table import Row, save
from benchmarks.runner import REPEATS, compare
from benchmarks.step import PAPER
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.training.fit import train_epoch
from emlnet.training.state import Plan, start
from emlnet.training.validation import evaluate
from pipelines.config.options import Compute
from pipelines.ray_cluster import connection
from pipelines.stages.decoder_stage import DecoderJob
from pipelines.stages.encoder_stage import EncoderJob
from pipelines.stages.frozen_encoders import build_cache
from shards.build.writer import build
from shards.synthetic import write_sample

NUM_IMAGES, BATCH = 10, 8
"""A fifth of the images is for validation, so an epoch is one step."""
LEARNING_RATE = 0.1
"""Ten times the paper's, so that scores are above chance after a few steps."""


def epochs(model, source, plan):
    """Return a function that trains one more epoch."""
    state = start(model, plan, source.steps_per_epoch)

    def train():
        train_epoch(state, plan, source)
        state.end_epoch()

    return train


@torch.no_grad()
def fit_batchnorm(encoder: Encoder, image: torch.Tensor) -> Encoder:
    """Return the encoder with BatchNorm statistics of these pictures, as a trained one has them."""
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    encoder.train().readouts(image)
    for norm in norms:
        norm.momentum = 0.1
    return encoder.eval()


def measure(size: tuple[int, int], repeats: int) -> Row:
    """An epoch of each side, in turn."""
    config = EncoderConfig(backbone="resnet50", readout="eml", size=size, weights="none")
    decoder, cpu = DecoderConfig(readout="eml"), torch.device("cpu")
    plan = Plan(epochs=repeats + 1, batch_size=BATCH, **{**PAPER, "lr": LEARNING_RATE})
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "shards"
        write_sample(Path(scratch) / "raw", num_images=NUM_IMAGES, seed=0, progress=False)
        build(Path(scratch) / "raw", data, progress=False)
        torch.manual_seed(0)
        encoders = tuple(Encoder(config) for _ in range(2))
        forwarding = EncoderJob(data=(data,), encoder=config, plan=plan, seed=0).source(0, 1, cpu)
        (image,), _ = next(iter(forwarding.val()))
        for encoder in encoders:
            fit_batchnorm(encoder, image)
        began = time.perf_counter()
        caches = tuple(
            build_cache(Path(scratch) / f"cache{n}", (data,), ("train", "val"), encoder)
            for n, encoder in enumerate(encoders)
        )
        caching = time.perf_counter() - began
        torch.manual_seed(1)
        net = EMLNet(encoders, decoder).to(memory_format=torch.channels_last)
        job = DecoderJob(
            data=(data,),
            encoders=copy.deepcopy(encoders),
            caches=caches,
            decoder=decoder,
            plan=plan,
            seed=0,
        )
        torch.manual_seed(1)
        model, cached = job.build(), job.source(0, 1, cpu)
        row = compare(
            f"epoch of a decoder of two ResNet-50, {forwarding.steps_per_epoch} steps",
            "encoders forwarded at every step",
            epochs(model, cached, plan),
            epochs(net, forwarding, plan),
            reach=30,
            repeats=repeats,
            size=size,
            caching_seconds=caching,
        )
        scores = evaluate(net, forwarding.val())
        row.about["scores"] = scores
        row.about["largest_difference_percent"] = 100 * max(
            abs(value / scores[name] - 1) for name, value in evaluate(model, cached.val()).items()
        )
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    connection.connect(Compute())
    row = measure(tuple(given.size), given.repeats)
    print(row.about)
    save("cached_decoder", [row], threads=given.threads)


if __name__ == "__main__":
    main()
