"""The stage that finetunes one encoder."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emlnet.backbones import find_backbone
from emlnet.backbones.weights import WORDS
from emlnet.data.batches import prepare_image, prepare_targets
from emlnet.data.framing import Size
from emlnet.data.samples import Batch, Decoded
from emlnet.inference import package
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.finetune import Finetune, prepare
from emlnet.training.validation import Inputs, TrainBatch
from pipelines.config.identity import flatten
from pipelines.config.options import TrainingCommand
from pipelines.ray_train.training_job import TrainingJob, WorkerSource
from pipelines.stages.run_context import RunContext
from pipelines.stages.stage import Stage
from pipelines.tracking import figures
from shards.read.folds import Fold
from shards.read.loader import ErrorPolicy, Loader
from shards.read.reader import ShardReader


@dataclass(frozen=True, kw_only=True)
class EncoderJob(TrainingJob):
    """One encoder to finetune.

    fold: training images that it does not see.
    """

    encoder: EncoderConfig
    finetune: Finetune = field(default_factory=Finetune)
    loader_workers: int = 0
    errors: ErrorPolicy = field(default_factory=ErrorPolicy)
    fold: Fold | None = None

    def reader(self, split: str) -> ShardReader:
        """Return the samples of a split; without the fold if the split is train."""
        reader = super().reader(split)
        return self.fold.leave_out(reader) if self.fold and split == "train" else reader

    def build(self) -> nn.Module:
        """Return the encoder with the weights to start from."""
        return prepare(start_encoder(self.encoder), self.finetune)

    def source(self, rank: int, world_size: int, device: torch.device) -> ShardSource:
        """Return one rank's batches."""
        return ShardSource(self, rank, world_size, device)

    def finish(self, weights: dict[str, torch.Tensor]) -> Encoder:
        """Return the encoder with trained weights."""
        # `weights` holds only trained weights; the frozen ones are rebuilt from the start.
        frozen: dict[str, torch.Tensor] = {}
        if self.finetune.freeze:
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                frozen = self.build().state_dict()
        encoder = Encoder(self.encoder, load_weights=False)
        encoder.load_state_dict({**frozen, **weights})
        return encoder.eval()


class ShardSource(WorkerSource):
    """One rank's batches of images, from shards."""

    def __init__(self, job: EncoderJob, rank: int, world_size: int, device: torch.device) -> None:
        super().__init__(job, rank, world_size, device)
        plan, train, val = job.plan, self.readers["train"], self.readers["val"]
        common: dict[str, Any] = {
            "rank": rank,
            "world_size": world_size,
            "num_workers": job.loader_workers,
            "pin_memory": device.type == "cuda",
            "errors": job.errors,
            **canvas_of(job.encoder, [*train.sizes, *val.sizes]),
        }
        self._train = Loader(
            train,
            plan.batch_size,
            seed=job.seed,
            shuffle=True,
            mix=job.mix,
            augmentation=plan.augmentation,
            micro_batch=plan.micro_batch,
            **common,
        )
        self._val = Loader(val, plan.batch_size, **common)
        self.steps_per_epoch = self._train.num_steps
        self.batches_per_step = self._train.num_parts

    def train(self, epoch: int, start_step: int) -> Iterator[TrainBatch]:
        """Return an epoch's batches from step `start_step` on; both count from 0."""
        return map(self._prepare, self._train.epoch(epoch, start_step))

    def val(self) -> Iterator[TrainBatch]:
        """Return this rank's share of the validation batches."""
        return map(self._prepare, self._val.epoch(0))

    def count_unread(self) -> int:
        """Return the number of images of the latest epoch that this rank could not read."""
        return self._train.num_unread + self._val.num_unread

    def example_inputs(self, position: int, sample: Decoded) -> Inputs:
        """Return the photograph."""
        return figures.photograph_input(sample, self.device)

    def _prepare(self, batch: Batch) -> TrainBatch:
        return (prepare_image(batch, self.device),), prepare_targets(batch, self.device)


def canvas_of(encoder: EncoderConfig, sizes: Sequence[Size]) -> dict[str, Any]:
    """Return a loader's options `canvas` and `stretch` for images of these sizes."""
    stretch = encoder.readout == "eml" and len(set(sizes)) > 1
    return {"canvas": encoder.size if stretch or encoder.letterbox else None, "stretch": stretch}


def validate_config(config: EncoderConfig, finetune: Finetune) -> EncoderConfig:
    """Return the config with the path of its weights made absolute.

    Raises ValueError if the weights do not fit the encoder.
    """
    if config.weights not in WORDS:
        config = replace(config, weights=str(Path(config.weights).expanduser().absolute()))
    prepare(start_encoder(config), finetune)
    return config


def start_encoder(config: EncoderConfig) -> Encoder:
    """Return the encoder that training starts from.

    The weights may be a folder: a package with exactly one encoder of this backbone and readout.
    Raises ValueError for another package.
    """
    folder = Path(config.weights)
    if not folder.is_dir():
        return Encoder(config)
    held = package.load(folder).encoders
    parts = operator.attrgetter("backbone", "readout", "readout_width")
    same = [found for found in held if parts(found.config) == parts(config)]
    if len(same) != 1:
        kinds = ", ".join(f"{e.config.backbone} ({e.kind})" for e in held)
        raise ValueError(
            f"{folder} has {len(same)} encoders of {config.backbone} ({config.readout}), expected "
            f"exactly one (it holds {kinds}); name another package"
        )
    encoder = Encoder(config, load_weights=False)
    encoder.load_state_dict(same[0].state_dict())
    return encoder


def licence_of(config: EncoderConfig) -> str:
    """Describe the licence of an encoder's starting weights."""
    path = Path(config.weights).expanduser()
    if config.weights == "none":
        licence = "from random weights"
    elif config.weights in WORDS:
        licence = find_backbone(config.backbone).licence or "unknown"
    elif path.is_dir():
        return package.licence_of(package.read_description(path).about)
    else:
        licence = f"unknown ({path.name})"
    return f"{config.backbone} {licence}"


def encoder_stage(
    context: RunContext,
    command: TrainingCommand,
    title: str,
    folder: str,
    config: EncoderConfig,
    finetune: Finetune,
    seed: int,
    fold: Fold | None = None,
) -> Stage:
    """Return the stage that finetunes one encoder.

    title: its name in tables and progress lines.  folder: a subfolder of the run's folder.
    fold: training images to leave out.  A `density` encoder letterboxes if the images have several
    sizes.
    """
    config = validate_config(config, finetune)
    sizes = {size for split in ("train", "val") for size in ShardReader(context.data, split).sizes}
    if config.readout == "density" and len(sizes) > 1:
        config = replace(config, letterbox=True)
    job = EncoderJob(
        data=context.data,
        plan=command.plan,
        seed=seed,
        mix=command.mix,
        title=title,
        num_examples=figures.NUM_EXAMPLES,
        encoder=config,
        finetune=finetune,
        loader_workers=context.compute.loader_workers,
        errors=context.compute.errors,
        fold=fold,
    )
    params = {**flatten(config), **flatten(finetune), **flatten(job.plan), "seed": seed}
    return Stage(
        kind="fold" if fold else "encoder",
        job=job,
        context=context,
        folder=context.folder / folder,
        params={**params, "left_out": str(fold)} if fold else params,
        backbones=config.backbone,
        licence=licence_of(config),
    )
