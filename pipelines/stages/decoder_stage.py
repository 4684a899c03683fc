"""The stage that trains a decoder on the cached readouts of frozen encoders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from pipelines.config.options import TrainingCommand
from pipelines.ray_train.training_job import TrainingJob, WorkerSource
from pipelines.stages.encoder_stage import canvas_of
from pipelines.stages.frozen_encoders import Cache, FrozenEncoder, compute_readouts
from pipelines.stages.run_context import RunContext
from pipelines.stages.stage import Stage
from pipelines.tracking import figures, run_folder
from shards.files.stored_pictures import decode_density
from shards.read.order import EpochPlan, epoch_plan


@dataclass(frozen=True, kw_only=True)
class DecoderJob(TrainingJob):
    """A decoder to train on the cached readouts of encoders.

    caches: one folder of readouts per encoder, in the same order.
    """

    encoders: tuple[Encoder, ...]
    caches: tuple[Path, ...]
    decoder: DecoderConfig

    def build(self) -> nn.Module:
        """Return the decoder as a model of cached readouts, without backbones."""
        return CachedDecoder(EMLNet(self.encoders, self.decoder))

    def source(self, rank: int, world_size: int, device: torch.device) -> CacheSource:
        """Return one rank's batches."""
        return CacheSource(self, rank, world_size, device)

    def finish(self, weights: dict[str, Tensor]) -> EMLNet:
        """Return the whole model with the trained decoder."""
        net = EMLNet(self.encoders, self.decoder)
        prefix = "net.decoder."
        net.decoder.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items()})
        return net.eval()


class CacheSource(WorkerSource):
    """One rank's batches: readouts from the cache, density maps and fixations from the shards."""

    def __init__(self, job: DecoderJob, rank: int, world_size: int, device: torch.device) -> None:
        super().__init__(job, rank, world_size, device)
        sizes = [size for reader in self.readers.values() for size in reader.sizes]
        self.canvas = canvas_of(job.encoders[0].config, sizes)
        self.caches = {
            split: [Cache(folder, split, len(reader)) for folder in job.caches]
            for split, reader in self.readers.items()
        }
        self.steps_per_epoch = -(-len(self.readers["train"]) // job.plan.batch_size)

    def train(self, epoch: int, start_step: int) -> Iterator[TrainBatch]:
        """Return an epoch's batches from step `start_step` on; both count from 0."""
        plan = epoch_plan(
            num_samples=len(self.readers["train"]),
            parts=self.readers["train"].parts,
            mix=self.job.mix,
            batch_size=self.job.plan.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            seed=self.job.seed,
            epoch=epoch,
            shuffle=True,
            flip=self.job.plan.flip,
        )
        return self._batches("train", plan.steps(start_step))

    def val(self) -> Iterator[TrainBatch]:
        """Return this rank's share of the validation batches."""
        return self.val_images(np.arange(len(self.readers["val"])))

    def val_images(self, positions: NDArray[np.int64]) -> Iterator[TrainBatch]:
        """Return this rank's batches of the validation images at some positions, in order."""
        plan = epoch_plan(
            num_samples=len(positions),
            batch_size=self.job.plan.batch_size,
            rank=self.rank,
            world_size=self.world_size,
        )
        steps = (step._replace(indices=positions[step.indices]) for step in plan.steps())
        return self._batches("val", steps)

    def _batches(self, split: str, steps: Iterable[EpochPlan]) -> Iterator[TrainBatch]:
        """Yield each step's inputs (readouts and size) and targets."""
        for step in steps:
            gaze = [self.gaze(split, int(position)) for position in step.indices]
            batch = collate(gaze, step.weights, step.flips, **self.canvas)
            targets = prepare_targets(batch, self.device)
            readouts = self._readouts(split, step.indices.tolist(), step.flips.tolist())
            yield (readouts, targets.size), targets

    def _readouts(
        self, split: str, positions: Sequence[int], flips: Sequence[bool]
    ) -> list[list[Tensor]]:
        """Return each encoder's readouts: (B, 1, h, w) float32 per tapped layer."""
        return [
            [readout.to(self.device).float() for readout in cache.read(positions, flips)]
            for cache in self.caches[split]
        ]

    def gaze(self, split: str, position: int) -> Decoded:
        """Return a sample with a black image: its photograph is not decoded."""
        sample = self.readers[split].sample(position)
        density = decode_density(sample.density, f"{sample.key}: the density map")
        return Decoded(
            key=sample.key,
            image=np.broadcast_to(np.uint8(0), (*density.shape, 3)),
            points=sample.points,
            observers=sample.observers,
            density=density,
        )

    def example_inputs(self, position: int, sample: Decoded) -> Inputs:
        """Return the readouts of a validation image, and its size."""
        return self._readouts("val", [position], [False]), sample.image.shape[:2]


def decoder_stage(
    context: RunContext,
    command: TrainingCommand,
    plan: Plan,
    config: DecoderConfig,
    encoders: Sequence[FrozenEncoder],
    notes: str = "",
) -> Stage:
    """Compute missing readouts; return the stage that trains a decoder on them.

    notes: Markdown to add to the description of its MLflow run.
    """
    folder = context.folder / "decoder"
    if run_folder.find_result(folder) is None:
        compute_readouts(context.data, encoders, context.compute.use_gpu)
    job = DecoderJob(
        data=context.data,
        plan=plan,
        seed=command.seed,
        mix=command.mix,
        title="decoder",
        num_examples=figures.NUM_EXAMPLES,
        encoders=tuple(frozen.encoder for frozen in encoders),
        caches=tuple(frozen.cache for frozen in encoders),
        decoder=config,
    )
    sources = ", ".join(f"{e.encoder.config.backbone} {e.weights[:12]}" for e in encoders)
    return Stage(
        kind="decoder",
        job=job,
        context=context,
        folder=folder,
        params={
            **flatten(config),
            **flatten(plan),
            "seed": command.seed,
            "encoders": sources,
            "folds": len(encoders[0].folds),
        },
        backbones="+".join(frozen.encoder.config.backbone for frozen in encoders),
        licence=", ".join(dict.fromkeys(frozen.licence for frozen in encoders)),
        notes=notes,
    )
