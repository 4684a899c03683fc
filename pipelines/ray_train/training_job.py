"""What a stage trains: its model and its batches, made in the command and sent to every worker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder
from emlnet.training.fit import BatchSource
from emlnet.training.state import Plan
from pipelines.tracking import figures
from shards.read.reader import SplitReader


class WorkerSource(BatchSource):
    """A worker's batches, the names of their images, and validation images to draw."""

    def keys(self, epoch: int, step: int) -> list[str]:
        """Return the images of all ranks in a step of an epoch, both from 0."""
        raise NotImplementedError

    def examples(self, num: int) -> Iterable[figures.Example]:
        """Return at most `num` validation images to draw, always the same ones."""
        raise NotImplementedError


class TrainingJob(Protocol):
    """A model to train, and the data to train it on."""

    @property
    def title(self) -> str:
        """The name in progress lines."""

    @property
    def plan(self) -> Plan:
        """How to train it."""

    @property
    def num_examples(self) -> int:
        """Validation images to draw after each epoch; 0 draws none."""

    @property
    def seed(self) -> int:
        """Seed of weights, order and flips."""

    def build(self) -> nn.Module:
        """Return the model to start from."""

    def source(self, rank: int, world_size: int, device: torch.device) -> WorkerSource:
        """Return the batches of one rank."""

    def reader(self, split: str) -> SplitReader:
        """Return the samples of a split."""

    def finish(self, weights: dict[str, Tensor]) -> Encoder | EMLNet:
        """Return the whole model, in eval mode, from the weights of the best epoch."""
