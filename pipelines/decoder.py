"""The stage that trains a decoder on the cached readouts of frozen encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from emlnet import package, registry
from emlnet.decoder import DecoderConfig
from emlnet.encoder import Encoder
from emlnet.fit import Batches, Inputs, evaluate
from emlnet.model import CachedDecoder, EMLNet
from emlnet.picture import open_picture, to_grey
from emlnet.sample import Decoded, Targets, collate, prepare_targets
from emlnet.state import Plan
from pipelines import readouts, runs
from pipelines.config import RUN, DecoderCommand, flatten
from pipelines.readouts import Cache
from pipelines.stage import Place, Stage, open_place, say
from shards.reader import Plan as ReadingPlan
from shards.reader import ShardReader, epoch_plan, step_keys


@dataclass(frozen=True, kw_only=True)
class DecoderJob:
    """A decoder to train.

    caches: folders of the encoders' readouts, in the order of the encoders.
    """

    data: Path
    encoders: tuple[Encoder, ...]
    caches: tuple[Path, ...]
    decoder: DecoderConfig
    plan: Plan
    seed: int

    @property
    def title(self) -> str:
        """What progress lines call it."""
        return "decoder"

    def build(self) -> nn.Module:
        """The decoder over frozen encoders, without their backbones."""
        return CachedDecoder(EMLNet(self.encoders, self.decoder))

    def source(self, rank: int, world_size: int, device: torch.device) -> CacheSource:
        """One rank's batches."""
        return CacheSource(self, rank, world_size, device)

    def finish(self, weights: dict[str, torch.Tensor]) -> EMLNet:
        """The whole model with the trained decoder."""
        net = EMLNet(self.encoders, self.decoder)
        prefix = "net.decoder."
        net.decoder.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items()})
        return net.eval()


class CacheSource:
    """One rank's batches of readouts, from the cache; densities and fixations from the shards."""

    def __init__(self, job: DecoderJob, rank: int, world_size: int, device: torch.device) -> None:
        self.job, self.rank, self.world_size, self.device = job, rank, world_size, device
        self.steps_per_epoch = len(self._plan(len(ShardReader(job.data, "train")), 0).indices)

    def _plan(self, num_samples: int, epoch: int, train: bool = True) -> ReadingPlan:
        return epoch_plan(
            num_samples=num_samples,
            batch_size=self.job.plan.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            seed=self.job.seed,
            epoch=epoch,
            shuffle=train,
            flip=train and self.job.plan.flip,
        )

    def train(self, epoch: int, start_step: int) -> Batches:
        """The batches of an epoch, from 0, that are left after `start_step` steps."""
        return CachedBatches(self, "train", epoch, start_step)

    def keys(self, epoch: int, step: int) -> list[str]:
        """The images of all ranks in a step of an epoch, both from 0."""
        return step_keys(self.job.data, self.job.plan.batch_size, self.job.seed, epoch, step)

    def val(self) -> Batches:
        """This rank's share of the validation images."""
        return CachedBatches(self, "val", 0, 0)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """A model's scores after an epoch, over the validation images of all ranks."""
        return evaluate(model, self.val())


class CachedBatches:
    """Batches of an epoch: ((readouts of each encoder, size), where people looked)."""

    def __init__(self, source: CacheSource, split: str, epoch: int, start_step: int) -> None:
        self.device = source.device
        self.reader = ShardReader(source.job.data, split)
        self.caches = [Cache.open(folder, split) for folder in source.job.caches]
        plan = source._plan(len(self.reader), epoch, train=split == "train")
        rows = list(zip(plan.indices, plan.weights, plan.flips, strict=True))
        self.rows = rows[start_step:]

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Inputs, Targets]]:
        """What the model is called with, and where people looked."""
        for indices, weights, flips in self.rows:
            batch = collate([self._gaze(int(i)) for i in indices], weights, flips)
            targets = prepare_targets(batch, self.device)
            readouts = [
                [
                    tap.to(self.device).float()
                    for tap in cache.read(indices.tolist(), flips.tolist())
                ]
                for cache in self.caches
            ]
            yield (readouts, targets.size), targets

    def _gaze(self, position: int) -> Decoded:
        """A sample without its photograph, which is not decoded."""
        sample = self.reader.sample(position)
        density = to_grey(open_picture(sample.density, sample.key))
        return Decoded(
            key=sample.key,
            image=np.broadcast_to(np.uint8(0), (*density.shape, 3)),
            points=sample.points,
            observers=sample.observers,
            density=density,
        )


def decoder_stage(
    place: Place, packages: Sequence[Path], config: DecoderConfig, plan: Plan, seed: int
) -> Stage:
    """The stage that trains the decoder; computes readouts that are not cached yet.

    packages: folders of the packaged encoders.
    """
    encoders: list[Encoder] = []
    caches, sources = [], []
    for path in packages:
        encoder = package.load(path).model
        if not isinstance(encoder, Encoder):
            raise ValueError(f"{path} holds a decoder's model; a decoder joins encoders")
        weights = package.read_description(path)["files"][package.WEIGHTS]
        encoders.append(encoder)
        sources.append(f"{encoder.config.backbone} {weights[:12]}")
        key = readouts.key(encoder, place.manifest.digest, weights)
        caches.append(place.folder / "readouts" / key)
    folder = place.folder / "decoder"
    if runs.find_result(folder) is None:
        for encoder, cache in zip(encoders, caches, strict=True):
            readouts.build(cache, place.data, ("train", "val"), encoder, place.compute.use_gpu)
    job = DecoderJob(
        data=place.data,
        encoders=tuple(encoders),
        caches=tuple(caches),
        decoder=config,
        plan=plan,
        seed=seed,
    )
    names = "+".join(encoder.config.backbone for encoder in encoders)
    return Stage(
        name="decoder",
        kind="decoder",
        job=job,
        place=place,
        folder=folder,
        params={**flatten(config), **flatten(plan), "seed": seed, "encoders": ", ".join(sources)},
        backbones=names,
    )


def run(command: DecoderCommand) -> runs.StageResult:
    """Trains a decoder on encoders of any runs."""
    place = open_place(command, "decoder", "+".join(command.encoders))
    packages = [
        registry.resolve(
            f"runs:/{uri}" if RUN.fullmatch(uri) else uri,
            command.tracking.uri,
            place.folder / "encoders" / str(number),
        )
        for number, uri in enumerate(command.encoders)
    ]
    result = decoder_stage(place, packages, command.decoder, command.plan, command.seed).run()
    say(result)
    return result
