"""Training jobs: a model and its batches, made in the command and sent to every worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from emlnet.data.samples import Decoded
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder
from emlnet.training.fit import BatchSource
from emlnet.training.state import Plan
from emlnet.training.validation import Inputs
from pipelines.tracking import figures
from shards.read.reader import ShardReader, step_keys


@dataclass(frozen=True, kw_only=True)
class TrainingJob(ABC):
    """A model to train, and the data to train it on.

    data: folders or URLs of shards.  mix: the share of each.  title: name in tables and progress
    lines.  num_examples: validation images to draw after each epoch.
    """

    data: tuple[Path | str, ...]
    plan: Plan
    seed: int
    mix: tuple[float, ...] = ()
    title: str = "training"
    num_examples: int = 0

    def reader(self, split: str) -> ShardReader:
        """Return the samples of a split."""
        return ShardReader(self.data, split)

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the model to start from."""

    @abstractmethod
    def source(self, rank: int, world_size: int, device: torch.device) -> WorkerSource:
        """Return the batches of one rank."""

    @abstractmethod
    def finish(self, weights: dict[str, Tensor]) -> Encoder | EMLNet:
        """Return the whole model, in eval mode, from the weights of the best epoch."""


class WorkerSource(BatchSource):
    """One rank's batches, the names of their images, and validation images to draw."""

    def __init__(self, job: TrainingJob, rank: int, world_size: int, device: torch.device) -> None:
        self.job, self.rank, self.world_size, self.device = job, rank, world_size, device
        self.readers = {split: job.reader(split) for split in ("train", "val")}

    def keys(self, epoch: int, step: int) -> list[str]:
        """Return the keys of all ranks' images in a step; epoch and step count from 0."""
        job, reader = self.job, self.readers["train"]
        return step_keys(reader, job.plan.batch_size, job.seed, epoch, step, job.mix)

    @abstractmethod
    def example_inputs(self, position: int, sample: Decoded) -> Inputs:
        """Return the model's inputs for a validation image."""

    def examples(self) -> Iterable[figures.Example]:
        """Return the validation images to draw, always the same ones."""
        return figures.examples(self.readers["val"], self.job.num_examples, self.example_inputs)
