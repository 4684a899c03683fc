"""Trials: an encoder or a decoder, trained at some loss weights on smaller pictures.

Trials are scored on one half of val, final runs on both.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from torch import Tensor, nn

from emlnet.backbones import find_backbone
from emlnet.data.framing import Size
from emlnet.data.maps import resize
from emlnet.data.samples import Decoded
from emlnet.models.decoder import Decoder
from emlnet.models.eml_net import CachedDecoder, EMLNet
from emlnet.models.encoder import EncoderConfig
from emlnet.training.fit import Hooks, fit
from emlnet.training.state import EpochReport, TrainState, start
from emlnet.training.validation import TrainBatch, evaluate
from pipelines.config.identity import digest
from pipelines.config.options import Compute
from pipelines.ray_train import trainer
from pipelines.stages.decoder_stage import CacheSource, DecoderJob
from pipelines.stages.encoder_stage import EncoderJob, ShardSource
from pipelines.stages.run_context import RunContext
from shards.read.reader import ShardReader
from tune.objective import HELD_OUT, centre_baseline, halves
from tune.search_config import LossWeightsCommand
from tune.small_pictures import SmallReader, scaled, shrink

EPOCH, REPORT = "epoch", "report"
"""Names of a trial's results other than its scores; `report` is an EpochReport as a dict."""
KINDS = ("trials", "finals")
"""Subfolders of the search: records of trials and of final runs."""
CHECKPOINTS = "training"
"""Subfolder of the search: checkpoints of running encoder trials."""
SECONDS_TO_START = "180"
"""A trial fails if Ray cannot place its workers within this time."""


class ReportToTune(Hooks):
    """Reports each epoch to Ray Tune, from the trial's own process."""

    def report(self, entry: EpochReport, state: TrainState) -> None:
        """Report an epoch."""
        tune.report(as_result(asdict(entry)))


class ReportFromTrain(TuneReportCallback):  # type: ignore[misc]
    """Reports each epoch to Ray Tune, from Ray Train's controller."""

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Report an epoch that every worker has reported."""
        if entry := metrics[0].get(REPORT):
            super().after_report(run_context, [as_result(entry)], None)


def as_result(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an epoch as a result of Ray Tune: scores by name, and the report as a dict."""
    return {EPOCH: entry["epoch"], **entry["scores"], REPORT: dict(entry)}


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """The options that trials of encoders and decoders share.

    scale: the trial's pictures have sides of this share of the full length.  final: score the
    held-out half of val, too.  finite: metrics that must be finite.
    """

    data: tuple[Path | str, ...]
    scale: float = 1.0
    final: bool = False
    finite: tuple[str, ...] = ()

    def score(
        self, model: nn.Module, tuned: Iterable[TrainBatch], held_out: Iterable[TrainBatch] | None
    ) -> dict[str, float]:
        """Return a model's scores on the tuned half of val and, with a prefix, on the held-out one.

        Raises ValueError if a score in `finite` is not finite.
        """
        baseline = centre_baseline(self.data[0])
        scores = evaluate(model, tuned, "tuebingen", baseline=baseline)
        if not all(math.isfinite(scores[name]) for name in self.finite):
            raise ValueError(f"a score on val is not finite: {scores}")
        if held_out is not None:
            others = evaluate(model, held_out, "tuebingen", baseline=baseline)
            scores |= {f"{HELD_OUT}{name}": value for name, value in others.items()}
        return scores


@dataclass(frozen=True, kw_only=True)
class EncoderTrialJob(TrialJob, EncoderJob):
    """An encoder's training in a trial, which is a Ray Train run.

    half: which half of val to score on: 0, the tuned one, or 1, the held-out one.
    """

    compute: Compute
    half: int = 0

    # A process whose training was stopped cannot run another one.
    reuse_actors: ClassVar[bool] = False

    @property
    def resources(self) -> dict[str, float]:
        """The resources of a trial's own process: no CPU, because it only waits for workers."""
        return {"CPU": 0, "node:__internal_head__": 0.01}

    @property
    def width(self) -> int:
        """Hidden channels of each readout."""
        return self.encoder.readout_width

    def changed(self, *, width: int, scale: float, **changes: Any) -> EncoderTrialJob:
        """Return the job with another width and scale, and other fields."""
        size = trial_size(self.encoder, scale)
        encoder = replace(self.encoder, size=size, readout_width=width)
        return replace(self, encoder=encoder, scale=scale, **changes)

    def train(self, folder: Path) -> None:
        """Train under Ray Train, from the last checkpoint in the folder if there is one."""
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", SECONDS_TO_START)
        content = trainer.train(self, folder, self.compute, [ReportFromTrain()], start_failures=0)
        # The last epoch's report may be lost when training ends; reporting it twice does no harm.
        tune.report(as_result(content["history"][-1]))

    def reader(self, split: str) -> ShardReader:
        """Return the pictures to train on, or those of a half of val."""
        reader = SmallReader(self.data[0], split, self.scale)
        return reader if split == "train" else reader.subset(halves(len(reader))[self.half])

    def source(self, rank: int, world_size: int, device: torch.device) -> EncoderTrialSource:
        """Return one rank's batches."""
        return EncoderTrialSource(self, rank, world_size, device)


class EncoderTrialSource(ShardSource):
    """One rank's batches of pictures; a model is scored by the `tuebingen` rules."""

    job: EncoderTrialJob

    def __init__(
        self, job: EncoderTrialJob, rank: int, world_size: int, device: torch.device
    ) -> None:
        super().__init__(job, rank, world_size, device)
        self.held_out: ShardSource | None = None
        if job.final:
            self.held_out = ShardSource(replace(job, half=1), rank, world_size, device)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the scores on the tuned half; in a final run on the held-out half too."""
        held_out = None if self.held_out is None else self.held_out.val()
        return self.job.score(model, self.val(), held_out)


@dataclass(frozen=True, kw_only=True)
class DecoderTrialJob(TrialJob, DecoderJob):
    """A decoder's training in a trial, in the trial's own process."""

    num_threads: int
    use_gpu: bool = False

    reuse_actors: ClassVar[bool] = True

    @property
    def resources(self) -> dict[str, float]:
        """The resources of a trial's process."""
        return {"CPU": 1, "GPU": 1} if self.use_gpu else {"CPU": 1}

    @property
    def width(self) -> int:
        """Hidden channels of the correction."""
        return self.decoder.width

    def changed(self, *, width: int, **changes: Any) -> DecoderTrialJob:
        """Return the job with another width, and other fields."""
        return replace(self, decoder=replace(self.decoder, width=width), **changes)

    def train(self, folder: Path) -> None:
        """Train from the start; nothing is written to the folder."""
        device = torch.device("cuda" if self.use_gpu else "cpu")
        torch.set_num_threads(self.num_threads)
        torch.manual_seed(self.seed)
        source = self.source(0, 1, device)
        state = start(self.build().to(device), self.plan, source.steps_per_epoch)
        fit(state, self.plan, source, ReportToTune())

    def build(self) -> nn.Module:
        """Return the decoder; on smaller pictures it sees smaller readouts."""
        net = EMLNet(self.encoders, self.decoder)
        if self.scale < 1 and net.kind == "density":
            net.decoder = CoarseDecoder(net.decoder, self.scale)
        model = CachedDecoder(net)
        model.validate_untrained &= self.final
        return model

    def source(self, rank: int, world_size: int, device: torch.device) -> DecoderTrialSource:
        """Return one rank's batches."""
        return DecoderTrialSource(self, rank, world_size, device)


class DecoderTrialSource(CacheSource):
    """One rank's batches of readouts; a model is scored by the `tuebingen` rules."""

    job: DecoderTrialJob

    def __init__(
        self, job: DecoderTrialJob, rank: int, world_size: int, device: torch.device
    ) -> None:
        super().__init__(job, rank, world_size, device)
        self.canvas = {}  # All pictures have one size.

    def gaze(self, split: str, position: int) -> Decoded:
        """Return a sample without its photograph, at the trial's scale."""
        return shrink(super().gaze(split, position), self.job.scale)

    def val(self) -> Iterator[TrainBatch]:
        """Return the half of val that trials are tuned on."""
        return self._half(0)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the scores on the tuned half; in a final run on the held-out half too."""
        return self.job.score(model, self.val(), self._half(1) if self.job.final else None)

    def _half(self, number: int) -> Iterator[TrainBatch]:
        return self.val_images(np.array(halves(len(self.readers["val"]))[number]))


class CoarseDecoder(Decoder):
    """A decoder on reduced readouts: none is larger than `scale` times the finest."""

    def __init__(self, decoder: Decoder, scale: float) -> None:
        super().__init__()
        self.decoder, self.scale = decoder, scale

    def forward(
        self, readouts: list[list[Tensor]], log_densities: list[Tensor], size: Size
    ) -> Tensor:
        """Return the decoder's map (B, 1, H, W)."""
        limit = scaled(max(_size(maps) for given in readouts for maps in given), self.scale)
        coarse = [[resize(maps, min(_size(maps), limit)) for maps in given] for given in readouts]
        answer: Tensor = self.decoder(coarse, log_densities, size)
        return answer


def _size(maps: Tensor) -> Size:
    return maps.shape[-2], maps.shape[-1]


def trial_size(encoder: EncoderConfig, scale: float) -> Size:
    """Return the backbone's input size (H, W) at a scale, one that it accepts."""
    row = find_backbone(encoder.backbone)
    if scale == 1 or row.only_size:
        return encoder.size
    shortest = -(-32 // row.step) * row.step
    height, width = (max(shortest, side) for side in scaled(encoder.size, scale, row.step))
    return height, width


@dataclass(frozen=True, kw_only=True)
class OpenSearch:
    """A search whose MLflow run is open; sent to the processes of its trials.

    job: the full training at loss weights 1:1:1.  at_once: number of trials in parallel.
    """

    command: LossWeightsCommand
    context: RunContext
    job: EncoderTrialJob | DecoderTrialJob
    at_once: int

    def folder_of(self, config: Mapping[str, Any]) -> Path:
        """Return the folder of a trial, which depends only on its Ray Tune config."""
        kind = KINDS["final" in config]
        return self.context.folder / kind / digest(**config)[:12]

    def make_job(self, config: Mapping[str, Any]) -> EncoderTrialJob | DecoderTrialJob:
        """Return the job of a Ray Tune config.

        config: `point` of a trial, or `final` with the `point` and `seed` of a final run.
        """
        final, job, search = config.get("final"), self.job, self.command.search
        point = (final or config)["point"]
        plan = replace(
            search.space.plan(point, job.plan),
            epochs=job.plan.epochs if final else self.command.trial_epochs,
            select=search.objectives[0],  # `ig` too: trials score it.
        )
        return job.changed(
            plan=plan,
            width=search.space.width(point, job.width),
            seed=final["seed"] if final else job.seed,
            scale=1.0 if final else self.command.scale,
            final=bool(final),
            finite=tuple({*search.objectives, search.ranked_by or plan.select}),
        )


def run_trial(config: dict[str, Any], search: OpenSearch) -> None:
    """Train the job of a Ray Tune config.  Raises RuntimeError with a one-line reason."""
    folder = search.context.folder / CHECKPOINTS / search.folder_of(config).name
    try:
        search.make_job(config).train(folder)
    except Exception as error:
        raise RuntimeError(root_error_line(error)) from error


def root_error_line(error: BaseException) -> str:
    """Return the last line of an error; if workers failed, of the first worker's error."""
    failures = getattr(error.__cause__, "worker_failures", None)
    root = next(iter(failures.values())) if failures else error
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return lines[-1] if lines else type(root).__name__
