"""Options that commands, stages, presets and `tune` share."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Suppress

from emlnet.data.maps import Kind
from emlnet.losses.weighted import LossWeights
from emlnet.models.encoder import EncoderConfig
from emlnet.models.finetune import Finetune
from emlnet.registry.mlflow_registry import find_tracking_uri
from emlnet.training.state import Plan
from shards.read.loader import ErrorPolicy

DECODER_PLAN = Plan(
    epochs=6,
    batch_size=16,
    lr=2e-3,
    weight_decay=0.05,
    warmup=0.15,
    loss_weights=LossWeights(kl=2, cc=1, nss=1, nll=1),
    guard=("nss", "cc", "kl"),
)


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """The Ray cluster of a command."""

    use_gpu: bool | None = None
    """Work on GPUs, one per worker; default: when the cluster has any."""
    address: str | None = None
    """Ray cluster to join, whose nodes see the folders of data and run; default: RAY_ADDRESS, else
    a cluster of this machine only."""


@dataclass(frozen=True, kw_only=True)
class Compute(ClusterOptions):
    """Workers, resources and checkpoints of training."""

    num_workers: int | str = 0
    """Ray workers, which share each batch; 0: one per GPU, or one without GPUs.  `2:8`: as many as
    there is room for, from 2 to 8, as machines come and go."""
    cpus: int = 1
    """CPU cores that Ray sets aside for each worker."""
    placement: Literal["pack", "spread"] = "pack"
    """Workers on few nodes (`pack`) or on many (`spread`)."""
    sync_bn: bool = False
    """On GPUs: BatchNorm statistics over the images of all workers, not of each worker."""
    loader_workers: int = 0
    """Threads per worker that read and decode ahead; 0 reads when a batch is needed."""
    timeout: int = 600
    """Seconds without progress after which a worker counts as hung: it prints its stack, and
    training restarts from the last checkpoint."""
    storage: str | None = None
    """Storage of checkpoints: s3://BUCKET/PATH, gs://BUCKET/PATH, or a folder that all nodes share;
    default: the run's own folder."""
    wait: int = 0
    """Seconds to wait for missing machines that an autoscaler may add."""
    errors: OmitArgPrefixes[ErrorPolicy] = field(default_factory=ErrorPolicy)
    max_failures: int = 2
    """How often a stage restarts from its last checkpoint after a worker died."""
    threads: int = 0
    """CPU threads of each worker; 0: an equal share of its machine's cores."""
    compile: bool = False
    """Compile training steps (torch.compile); where that fails, train without."""
    profile: bool = False
    """Trace three training steps: trace.json.gz among the MLflow run's artifacts."""

    def __post_init__(self) -> None:
        min_workers, max_workers = self.worker_range
        if min(self.loader_workers, self.threads) < 0 or max_workers < min_workers:
            raise ValueError(
                "numbers of workers and threads must be at least 0; write a range as 2:8"
            )

    @property
    def storage_folder(self) -> Path | None:
        """Folder of checkpoints, absolute; None for a URL and for the default."""
        local = self.storage and "://" not in self.storage
        return Path(self.storage).absolute() if self.storage and local else None

    @property
    def worker_range(self) -> tuple[int, int]:
        """Smallest and largest number of workers."""
        found = re.fullmatch(r"(\d+)|([1-9]\d*):(\d+)", str(self.num_workers))
        if found is None:
            raise ValueError(
                "num_workers is a number, or a range that begins at 1 or above like `2:8`, not "
                f"{self.num_workers!r}"
            )
        return int(found[1] or found[2]), int(found[1] or found[3])


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """The MLflow store of runs and models."""

    tracking_uri: str | None = None
    """MLflow store or server; default: MLFLOW_TRACKING_URI, else ./mlflow.db."""

    @property
    def uri(self) -> str:
        """The MLflow store to use."""
        return find_tracking_uri(self.tracking_uri)


@dataclass(frozen=True, kw_only=True)
class Tracking(StoreOptions):
    """The run's folder and its MLflow experiment."""

    out: Path | None = None
    """The run's own folder; the same command resumes from it.  Default: runs/<name>."""
    experiment: str | None = None
    """MLflow experiment; default: the data set's name."""


@dataclass(frozen=True, kw_only=True)
class TrainingCommand:
    """Options of every command that trains."""

    data: tuple[Path, ...]
    """Folder or URL (s3://, gs://, https://) of shards; several train together."""
    mix: tuple[float, ...] = ()
    """Share of the batches that each of several data sets gets; default: in proportion to its
    number of images."""
    plan: OmitArgPrefixes[Plan] = field(default_factory=Plan)
    seed: int = 0
    """Seed of new weights, the order of the images and their flips."""
    preset: Suppress[str] = ""
    """Name of the preset that the command started from."""
    compute: OmitArgPrefixes[Compute] = field(default_factory=Compute)
    tracking: OmitArgPrefixes[Tracking] = field(default_factory=Tracking)


@dataclass(frozen=True, kw_only=True)
class FullCommand(TrainingCommand):
    """All stages in order: shards, encoders, decoder, scores, registry; one MLflow parent run."""

    common_flags: ClassVar[tuple[str, ...]] = (
        "data", "backbones", "weights", "size", "folds", "epochs", "batch_size", "lr",
        "loss_weights", "num_workers", "use_gpu", "seed", "out", "tracking_uri",
    )  # fmt: skip

    data: tuple[Path, ...]
    """Folder of shards, or a raw data set in a layout that `shards build` knows, packed first.
    Several train together; scores are on the first."""
    backbones: tuple[str, ...] = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
    """Backbones, one encoder each."""
    readout: Kind = "density"
    """Readouts and decoder: `density`, or `eml` as in the paper."""
    size: tuple[int, int] = (480, 640)
    """Height and width in pixels at which the backbones see a picture."""
    weights: tuple[str, ...] = ("default",)
    """Weights to start from, one for all or one per backbone: `default`, `package`, `none`, or a
    path."""
    finetune: OmitArgPrefixes[Finetune] = field(default_factory=Finetune)
    folds: int = 0
    """Number of folds of the training pictures; useful if the encoders' tasks differ.  For each
    fold every encoder is trained again without it, so that the decoder learns from readouts of
    pictures that the encoder has not seen.  K folds take K times as long.  0: no folds; the decoder
    learns from pictures that the encoders were trained on."""
    decoder_plan: Plan = DECODER_PLAN
    readouts: Path | None = None
    """Folder of cached readouts, shared by all decoders; default: readouts/ beside
    the run's folder."""
    flip_scores: bool = True
    """Average each model's map with that of the mirrored picture before it is scored."""

    def __post_init__(self) -> None:
        if not self.backbones:
            raise ValueError("name at least one backbone")
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds are at least 2, or 0 for none, not {self.folds}")
        if len(self.weights) not in (1, len(self.backbones)):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.backbones)} backbones; "
                "give one for all, or one each"
            )
        self.encoders()

    def encoders(self) -> list[EncoderConfig]:
        """The config of each encoder."""
        weights = self.weights * (len(self.backbones) // len(self.weights))
        return [
            EncoderConfig(backbone=b, readout=self.readout, size=self.size, weights=w)
            for b, w in zip(self.backbones, weights, strict=True)
        ]


def num_cpus() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
