"""How fast a machine with a GPU trains, and how far that is from what the card can do.

    python -m benchmarks.gpu --data SHARDS

Needs torch, torchvision, timm and webdataset, and the rooms emlnet and shards: no Ray, no MLflow.
Per backbone: images/s and peak memory of a whole training step (the loss, AdamW and clipping too)
in float32, bfloat16 and bfloat16 compiled, each at its best batch, and the share of the floor that
it reaches; the loss; the metrics; a step fed from shards against the same on data that lies on the
card; a decoder's step from readouts.  `--device cpu` tries it all out.
Writes benchmarks/results/gpu.json and prints a table.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baseline import plain_loss
from benchmarks.loss import inputs as loss_inputs
from benchmarks.result_table import RESULTS, commit, machine
from emlnet.backbones import find_backbone
from emlnet.data.augment import Augmentation
from emlnet.data.batches import prepare_image, prepare_targets
from emlnet.data.targets import Targets
from emlnet.losses import LossWeights, saliency_loss
from emlnet.metrics import saliency_metrics
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import CachedDecoder, EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.precision import compile_training, set_precision, to_channels_last
from emlnet.training.fit import BatchSource, train_epoch
from emlnet.training.state import Plan, start
from shards.read.loader import Loader
from shards.read.reader import ShardReader

BACKBONES = (
    "resnet50",
    "efficientnet_lite0",
    "timm:nasnetalarge",
    "densenet161",
    "timm:vit_small_patch14_dinov2",
)
SETTINGS = {
    "float32": {"precision": "float32"},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, compiled": {"precision": "bfloat16", "compiled": True},
}


class Card:
    """The device: its clock, its memory, its measured rates."""

    def __init__(self, name: str, scale: int) -> None:
        self.device, self.scale = torch.device(name), scale
        self.cuda = self.device.type == "cuda"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, function, repeats: int = 5, warm: int = 2) -> float:
        """Median time of a call."""
        taken = []
        for repetition in range(-warm, repeats):
            self.wait()
            began = time.perf_counter()
            function()
            self.wait()
            if repetition >= 0:
                taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    def reset(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        return torch.cuda.max_memory_allocated() / 2**30 if self.cuda else None

    def rates(self) -> dict[str, float]:
        """FLOPs per second of a large product by number format, and bytes per second of a copy."""
        side = 8192 // self.scale
        found = {}
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            first = torch.randn(side, side, device=self.device, dtype=dtype)
            second, out = torch.randn_like(first), torch.empty_like(first)
            seconds = self.seconds(lambda a=first, b=second, c=out: torch.mm(a, b, out=c))
            found[name] = 2 * side**3 / seconds
        source = torch.empty(2**28 // self.scale**2, device=self.device)
        target = torch.empty_like(source)
        seconds = self.seconds(lambda: target.copy_(source))
        found["copy"] = 2 * source.numel() * source.element_size() / seconds
        return found


def make_targets(batch: int, size: tuple[int, int], device: torch.device) -> Targets:
    density = torch.rand(batch, 1, *size, device=device) ** 8
    num_pixels = size[0] * size[1]
    points = torch.stack([torch.randperm(num_pixels)[:500] + i * num_pixels for i in range(batch)])
    index = points.flatten().sort().values.to(device)
    return Targets(
        density=density / density.sum((2, 3), keepdim=True),
        index=index,
        counts=torch.ones(len(index), device=device),
        weight=torch.ones(batch, device=device),
    )


class Ready(BatchSource):
    """An epoch of batches that are ready."""

    def __init__(self, batches, num_steps) -> None:
        self.batches, self.steps_per_epoch = batches, num_steps

    def train(self, epoch, start_step):
        return self.batches

    def val(self):
        return ()


class Trainer:
    """A model with its optimiser, and steps of emlnet.training.fit on batches that are ready."""

    def __init__(self, card, model, plan, *, compiled=False) -> None:
        self.plan, self.failures = plan, []
        set_precision(plan.precision)
        self.model = to_channels_last(model, card.device)
        if compiled:
            compile_training(self.model, self.failures.append)
        self.state = start(self.model, plan, 10**6)

    def train(self, batches, num_steps) -> None:
        self.state.step, self.state.loss_sums = 0, None
        train_epoch(self.state, self.plan, Ready(batches, num_steps))


def make_trainer(card, backbone, size, precision, **options) -> Trainer:
    config = EncoderConfig(backbone=backbone, size=size, weights="none")
    return Trainer(card, Encoder(config), Plan(precision=precision), **options)


def ready_batch(card, batch, size):
    image = torch.rand(batch, 3, *size, device=card.device)
    image = image.contiguous(memory_format=torch.channels_last)
    return ((image,), make_targets(batch, size, card.device))


def time_encoder(card, backbone, size, batches, num_steps):
    """By setting: images/s and memory at the best batch, beside the floor."""
    rates, rows = card.rates(), {}
    for name, options in SETTINGS.items():
        best = None
        for batch in batches:
            card.reset()
            try:
                trainer = make_trainer(card, backbone, size, **options)
                steps = [ready_batch(card, batch, size)] * num_steps
                seconds = card.seconds(lambda t=trainer, s=steps: t.train(s, num_steps), 3, 1)
            except torch.OutOfMemoryError:
                break
            row = {
                "batch": batch,
                "images_per_second": batch * num_steps / seconds,
                "peak_gib": card.peak_gib(),
                "failures": trainer.failures,
                **floor(card, trainer, batch, size, rates, options["precision"]),
            }
            row["of_floor"] = row["floor_seconds"] * num_steps / seconds
            if best and row["images_per_second"] < 1.03 * best["images_per_second"]:
                break
            best = row
        if best:
            rows[name] = best
            print(f"{backbone}, {name}: {json.dumps(best)}", flush=True)
    return rows


def floor(card, trainer, batch, size, rates, precision):
    """The time that a step's FLOPs take at the measured rate, or its bytes at that of a copy.

    Bytes: what the backward pass keeps, written once and read once, as much again for gradients,
    and weights, gradients and AdamW's two moments, read and written.
    """
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    (image,), _ = ready_batch(card, 1, size)
    trainer.model.eval()  # BatchNorm of one image
    with (
        FlopCounterMode(display=False) as counter,
        torch.autocast(card.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        trainer.model(image).sum().backward()
    trainer.model.zero_grad()
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    flops = batch * counter.get_total_flops()
    moved = 4 * batch * max(0, sum(kept.values()) - weights) + 8 * weights
    by_flops, by_bytes = flops / rates[precision], moved / rates["copy"]
    return {"floor_seconds": max(by_flops, by_bytes), "by_flops": by_flops, "by_bytes": by_bytes}


def time_loss_and_metrics(card, batch):
    """Milliseconds of the loss with its gradient, ours and the loop's, and of our metrics."""
    prediction, density, fixation, targets = loss_inputs(batch, card.device)
    weights = LossWeights(kl=1, cc=1, nss=1)

    def ours():
        output = prediction.detach().requires_grad_()
        saliency_loss(output, targets, weights, "eml", "reference")[0].mean().backward()

    def loop():
        output = prediction.detach().requires_grad_()
        plain_loss.loss(output, density, fixation)[0].backward()

    return {
        "batch": batch,
        "loss_ms": 1000 * card.seconds(ours),
        "loss_loop_ms": 1000 * card.seconds(loop),
        "metrics_ms": 1000
        * card.seconds(lambda: saliency_metrics.score(prediction, fixation, density)),
    }


def time_loader(card, data, backbone, batch, num_workers, num_steps):
    """Images/s of steps fed from shards, and of the same steps on data that lies on the card."""
    reader = ShardReader(data, "train")
    trainer = make_trainer(card, backbone, reader.sizes[0], "bfloat16")
    loader = Loader(
        reader,
        batch,
        shuffle=True,
        augmentation=Augmentation(flip=True),
        num_workers=num_workers,
        pin_memory=card.cuda,
    )

    def feed():
        """So many steps from shards, epoch after epoch."""
        batches = itertools.chain.from_iterable(map(loader.epoch, itertools.count()))
        for given in itertools.islice(batches, num_steps):
            yield (prepare_image(given, card.device),), prepare_targets(given, card.device)

    on_card = [ready_batch(card, batch, reader.sizes[0])] * num_steps
    images = batch * num_steps
    fed = images / card.seconds(lambda: trainer.train(feed(), num_steps), 3, 1)
    ready = images / card.seconds(lambda: trainer.train(on_card, num_steps), 3, 1)
    return {"batch": batch, "fed": fed, "on_card": ready, "share": fed / ready, "to_reach": 0.95}


def time_decoder(card, size, batch, num_steps):
    """Images/s of a decoder of two ResNet-50, both kinds, from readouts that lie on the card."""
    rows = {}
    for kind in ("density", "eml"):
        config = EncoderConfig(backbone="resnet50", readout=kind, size=size, weights="none")
        net = EMLNet([Encoder(config), Encoder(config)], DecoderConfig(readout=kind))
        with torch.no_grad():
            readouts = net.readouts(torch.rand(1, 3, *size))
        readouts = [
            [r.to(card.device).expand(batch, -1, -1, -1) for r in taps] for taps in readouts
        ]
        trainer = Trainer(card, CachedDecoder(net), Plan())
        steps = [((readouts, size), make_targets(batch, size, card.device))] * num_steps
        seconds = card.seconds(lambda t=trainer, s=steps: t.train(s, num_steps), 3, 1)
        rows[kind] = batch * num_steps / seconds
    return {"batch": batch, "images_per_second": rows}


def as_table(results) -> str:
    """The encoders' rows as Markdown."""
    lines = [
        "| backbone | setting | batch | images/s | peak GiB | share of the floor |",
        "|---|---|---|---|---|---|",
    ]
    for backbone, rows in results["encoders"].items():
        for name, row in rows.items():
            peak = "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
            cells = [backbone, name, str(row["batch"]), f"{row['images_per_second']:.1f}", peak]
            lines.append(f"| {' | '.join([*cells, format(row['of_floor'], '.2f')])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", type=Path, help="shards; without, the loader is left out")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--size", type=int, nargs=2, help="default: nearest to 480 640")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256])
    parser.add_argument("--steps", type=int, default=10, help="in a repetition")
    parser.add_argument("--loader-workers", type=int, default=8)
    parser.add_argument("--scale", type=int, default=1, help="divides the products that give rates")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    args = parser.parse_args()
    card = Card(args.device, args.scale)
    first = args.batches[0]
    results = {"machine": machine(), "commit": commit(), "rates": card.rates(), "encoders": {}}
    for backbone in args.backbones:
        size = find_backbone(backbone).nearest_size(tuple(args.size or (480, 640)))
        results["encoders"][backbone] = time_encoder(card, backbone, size, args.batches, args.steps)
    results["loss_and_metrics"] = time_loss_and_metrics(card, first)
    results["decoder"] = time_decoder(card, tuple(args.size or (480, 640)), first, args.steps)
    if args.data:
        results["loader"] = time_loader(
            card, args.data, args.backbones[0], first, args.loader_workers, args.steps
        )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=1) + "\n")
    print(as_table(results))
    print(
        json.dumps({k: results[k] for k in results if k not in ("encoders", "machine")}, indent=1)
    )


if __name__ == "__main__":
    main()
