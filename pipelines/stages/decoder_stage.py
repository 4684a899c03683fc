"""The stage that trains a decoder on the cached readouts of frozen encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emlnet.data.batches import prepare_targets
from emlnet.data.samples import Decoded, collate
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import CachedDecoder, EMLNet
from emlnet.models.encoder import Encoder
from emlnet.training.state import Plan
from emlnet.training.validation import Inputs, TrainBatch
from pipelines.config.identity import flatten
from pipelines.ray_train.training_job import WorkerSource
from pipelines.stages.encoder_stage import canvas_of
from pipelines.stages.frozen_encoders import FrozenEncoder, compute_readouts
from pipelines.stages.readout_cache import Cache
from pipelines.stages.run_context import RunContext
from pipelines.stages.stage import Stage
from pipelines.tracking import figures, run_folder
from shards.files.stored_pictures import decode_density
from shards.read.order import EpochPlan, epoch_plan
from shards.read.reader import SplitReader, open_split, step_keys


@dataclass(frozen=True, kw_only=True)
class DecoderJob:
    """A decoder to train on the cached readouts of encoders.

    data: folders of shards.  caches: folders of the encoders' readouts, in the order of the
    encoders.  mix: share of each data set.
    """

    data: tuple[Path | str, ...]
    encoders: tuple[Encoder, ...]
    caches: tuple[Path, ...]
    decoder: DecoderConfig
    plan: Plan
    seed: int
    num_examples: int = 0
    mix: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        """The name in progress lines."""
        return "decoder"

    def build(self) -> nn.Module:
        """Return the decoder over frozen encoders without their backbones."""
        return CachedDecoder(EMLNet(self.encoders, self.decoder))

    def reader(self, split: str) -> SplitReader:
        """Return the samples of a split."""
        return open_split(self.data, split)

    def source(self, rank: int, world_size: int, device: torch.device) -> CacheSource:
        """Return one rank's batches."""
        return CacheSource(self, rank, world_size, device)

    def finish(self, weights: dict[str, torch.Tensor]) -> EMLNet:
        """Return the whole model with the trained decoder."""
        net = EMLNet(self.encoders, self.decoder)
        prefix = "net.decoder."
        net.decoder.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items()})
        return net.eval()


class CacheSource(WorkerSource):
    """One rank's batches of readouts, from the cache; densities and fixations from the shards."""

    def __init__(self, job: DecoderJob, rank: int, world_size: int, device: torch.device) -> None:
        self.job, self.rank, self.world_size, self.device = job, rank, world_size, device
        self.readers = {split: job.reader(split) for split in ("train", "val")}
        sizes = [size for reader in self.readers.values() for size in reader.sizes]
        self.canvas = canvas_of(job.encoders[0].config, sizes)
        self.steps_per_epoch = len(self._plan(len(self.readers["train"]), 0).indices)

    def _plan(self, num_samples: int, epoch: int, train: bool = True) -> EpochPlan:
        return epoch_plan(
            num_samples=num_samples,
            parts=self.readers["train"].parts,
            mix=self.job.mix if train else (),
            batch_size=self.job.plan.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            seed=self.job.seed,
            epoch=epoch,
            shuffle=train,
            flip=train and self.job.plan.flip,
        )

    def images(self, split: str, positions: NDArray[np.int64]) -> CachedBatches:
        """Return this rank's share of some samples of a split, in order."""
        plan = self._plan(len(positions), 0, train=False)
        return self._batches(split, replace(plan, indices=positions[plan.indices]))

    def _batches(self, split: str, plan: EpochPlan, start_step: int = 0) -> CachedBatches:
        return CachedBatches(
            plan,
            [Cache.open(folder, split) for folder in self.job.caches],
            partial(self.gaze, split),
            self.device,
            start_step,
            self.canvas,
        )

    def gaze(self, split: str, position: int) -> Decoded:
        """Return where people looked in a sample."""
        return read_gaze(self.readers[split], position)

    def train(self, epoch: int, start_step: int) -> CachedBatches:
        """Return the batches of an epoch, from 0, without its first `start_step` steps."""
        plan = self._plan(len(self.readers["train"]), epoch)
        return self._batches("train", plan, start_step)

    def keys(self, epoch: int, step: int) -> list[str]:
        """Return the images of all ranks in a step of an epoch, both from 0."""
        return step_keys(
            self.readers["train"],
            self.job.plan.batch_size,
            self.job.seed,
            epoch,
            step,
            self.job.mix,
        )

    def val(self) -> CachedBatches:
        """Return this rank's share of the validation batches."""
        return self.images("val", np.arange(len(self.readers["val"])))

    def examples(self, num: int) -> Iterator[figures.Example]:
        """Return at most `num` validation images to draw."""
        caches = [Cache.open(folder, "val") for folder in self.job.caches]

        def prepare(position: int, sample: Decoded) -> Inputs:
            taps = read_taps(caches, [position], [False], self.device)
            return taps, sample.image.shape[:2]

        return figures.examples(self.readers["val"], num, prepare)


class Readouts(Protocol):
    """Readouts of one encoder on one split."""

    def read(self, positions: Sequence[int], flips: Sequence[bool]) -> list[Tensor]:
        """For each tapped layer (B, 1, h, w) of these samples, mirrored or not."""


class CachedBatches:
    """Batches of an epoch: ((readouts of each encoder, size), targets).

    readouts: of each encoder.  gaze: returns a sample by position, without its photograph.
    start_step: steps of the plan to skip.  canvas: from `canvas_of`.
    """

    def __init__(
        self,
        plan: EpochPlan,
        readouts: Sequence[Readouts],
        gaze: Callable[[int], Decoded],
        device: torch.device,
        start_step: int = 0,
        canvas: Mapping[str, Any] | None = None,
    ) -> None:
        self.readouts, self.gaze, self.device = readouts, gaze, device
        rows = list(zip(plan.indices, plan.weights, plan.flips, strict=True))
        self.rows = rows[start_step:]
        self.canvas = canvas or {}

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.rows)

    def __iter__(self) -> Iterator[TrainBatch]:
        """Yield the model's inputs and the targets of each step."""
        for indices, weights, flips in self.rows:
            gaze = [self.gaze(int(i)) for i in indices]
            batch = collate(gaze, weights, flips, **self.canvas)
            targets = prepare_targets(batch, self.device)
            taps = read_taps(self.readouts, indices.tolist(), flips.tolist(), self.device)
            yield (taps, targets.size), targets


def read_taps(
    readouts: Sequence[Readouts],
    positions: Sequence[int],
    flips: Sequence[bool],
    device: torch.device,
) -> list[list[Tensor]]:
    """For each encoder its readouts (B, 1, h, w) float32 of these samples, mirrored or not."""
    return [[tap.to(device).float() for tap in given.read(positions, flips)] for given in readouts]


def read_gaze(reader: SplitReader, position: int) -> Decoded:
    """Return a sample without decoding its photograph, which is black."""
    sample = reader.sample(position)
    density = decode_density(sample.density, f"{sample.key}: the density map")
    return Decoded(
        key=sample.key,
        image=np.broadcast_to(np.uint8(0), (*density.shape, 3)),
        points=sample.points,
        observers=sample.observers,
        density=density,
    )


def decoder_job(
    context: RunContext,
    encoders: Sequence[FrozenEncoder],
    config: DecoderConfig,
    plan: Plan,
    seed: int,
    mix: tuple[float, ...] = (),
) -> DecoderJob:
    """Return the decoder to train on encoders whose readouts are cached."""
    return DecoderJob(
        data=context.data,
        encoders=tuple(each.encoder for each in encoders),
        caches=tuple(each.cache for each in encoders),
        decoder=config,
        plan=plan,
        seed=seed,
        num_examples=figures.NUM_EXAMPLES,
        mix=mix,
    )


def decoder_stage(
    context: RunContext,
    encoders: Sequence[FrozenEncoder],
    config: DecoderConfig,
    plan: Plan,
    seed: int,
    notes: str = "",
    mix: tuple[float, ...] = (),
) -> Stage:
    """Return the stage that trains the decoder; compute readouts that are not cached yet.

    notes: more for the description of its MLflow run, Markdown.
    """
    folder = context.folder / "decoder"
    if run_folder.find_result(folder) is None:
        compute_readouts(context.data, encoders, context.compute.use_gpu)
    sources = ", ".join(each.source for each in encoders)
    return Stage(
        name="decoder",
        kind="decoder",
        job=decoder_job(context, encoders, config, plan, seed, mix),
        context=context,
        folder=folder,
        params={**flatten(config), **flatten(plan), "seed": seed, "encoders": sources},
        backbones="+".join(each.encoder.config.backbone for each in encoders),
        licence=", ".join(dict.fromkeys(each.licence for each in encoders)),
        notes=notes,
    )
