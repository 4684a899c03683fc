"""Trials: an encoder or a decoder, trained at some loss weights on smaller pictures.

Trials are scored on one half of val, final runs on both.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
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
from shards.read.loader import Loader
from shards.read.reader import ShardReader
from tune.objective import HELD_OUT, centre_baseline, halves
from tune.small_pictures import SmallReader, scaled, shrink
from tune.space import Space

EPOCH, REPORT = "epoch", "report"
"""What a trial reports beside its scores; `report` is an EpochReport as a dict."""
CHECKPOINTS = "training"
"""Folder in the search's: checkpoints of the encoders' trials that run."""
SECONDS_TO_START = "180"
"""After which a trial fails whose workers found no room."""

_baseline = lru_cache(maxsize=1)(centre_baseline)
"""Computed once per process, which may run many trials."""


def score_halves(
    model: nn.Module,
    data: Path | str,
    tuned: Iterable[TrainBatch],
    held_out: Iterable[TrainBatch] | None,
) -> dict[str, float]:
    """Return a model's scores on the tuned half of val and, with a prefix, on the held-out one."""
    baseline = _baseline(data)
    scores = evaluate(model, tuned, "tuebingen", baseline=baseline)
    if held_out is not None:
        others = evaluate(model, held_out, "tuebingen", baseline=baseline)
        scores |= {f"{HELD_OUT}{name}": value for name, value in others.items()}
    return scores


class ReportToTune(Hooks):
    """Reports each epoch to Ray Tune, from the trial's own process.

    metrics: names of the scores that must be finite.
    """

    def __init__(self, metrics: Sequence[str]) -> None:
        self.metrics = metrics

    def report(self, entry: EpochReport, state: TrainState) -> None:
        """Report an epoch."""
        tune.report(as_result(asdict(entry), self.metrics))


class ReportFromTrain(TuneReportCallback):  # type: ignore[misc]
    """Reports each epoch to Ray Tune, from Ray Train's controller; metrics: as above."""

    def __init__(self, metrics: Sequence[str]) -> None:
        super().__init__()
        self.metrics = metrics

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Report an epoch that every worker has reported."""
        if entry := metrics[0].get(REPORT):
            super().after_report(run_context, [as_result(entry, self.metrics)], None)


def as_result(entry: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """Return what Ray Tune is told of an epoch: the scores by name, and all of the report.

    entry: an EpochReport as a dict.  Raises ValueError when one of the metrics is not finite.
    """
    scores = entry["scores"]
    if not all(math.isfinite(scores[name]) for name in metrics):
        raise ValueError(f"a score on val is not finite: {scores}")
    return {EPOCH: entry["epoch"], **scores, REPORT: dict(entry)}


@dataclass(frozen=True, kw_only=True)
class EncoderTrialJob(EncoderJob):
    """An encoder's training in a trial, which is a Ray Train run.

    scale: of the pictures' sides.  final: score the held-out half of val too.
    """

    compute: Compute
    scale: float = 1.0
    final: bool = False

    # A process whose training was stopped from outside cannot run another.
    reuse_actors: ClassVar[bool] = False

    @property
    def resources(self) -> dict[str, float]:
        """What a trial's own process takes: no CPU, since it only waits for its workers."""
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

    def train(self, folder: Path, metrics: Sequence[str]) -> None:
        """Train under Ray Train, from the last checkpoint in the folder if there is one."""
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", SECONDS_TO_START)
        callbacks = [ReportFromTrain(metrics)]
        content = trainer.train(self, folder, self.compute, callbacks, start_failures=0)
        # The last epoch's report may be lost when training ends; a second one counts once.
        tune.report(as_result(content["history"][-1], metrics))

    def reader(self, split: str) -> ShardReader:
        """Return the pictures to train on, or the half of val that trials are tuned on."""
        reader = SmallReader(self.data[0], split, self.scale)
        return reader if split == "train" else reader.subset(halves(len(reader))[0])

    def source(self, rank: int, world_size: int, device: torch.device) -> EncoderTrialSource:
        """Return one rank's batches."""
        return EncoderTrialSource(self, rank, world_size, device)


class EncoderTrialSource(ShardSource):
    """One rank's batches of pictures; a model is scored by the `tuebingen` rules."""

    def __init__(
        self, job: EncoderTrialJob, rank: int, world_size: int, device: torch.device
    ) -> None:
        super().__init__(job, rank, world_size, device)
        self.data = job.data[0]
        self.held_out: Loader | None = None
        if job.final:
            val = SmallReader(self.data, "val", job.scale)
            self.held_out = Loader(
                val.subset(halves(len(val))[1]),
                job.plan.batch_size,
                rank=rank,
                world_size=world_size,
                errors=job.errors,
            )

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the scores on the tuned half; in a final run on the held-out half too."""
        held_out = map(self._prepare, self.held_out.epoch(0)) if self.held_out else None
        return score_halves(model, self.data, self.val(), held_out)


@dataclass(frozen=True, kw_only=True)
class DecoderTrialJob(DecoderJob):
    """A decoder's training in a trial, in the trial's own process.

    scale, final: as for an encoder.
    """

    num_threads: int
    use_gpu: bool = False
    scale: float = 1.0
    final: bool = False

    reuse_actors: ClassVar[bool] = True

    @property
    def resources(self) -> dict[str, float]:
        """What a trial's process takes."""
        return {"CPU": 1, "GPU": 1} if self.use_gpu else {"CPU": 1}

    @property
    def width(self) -> int:
        """Hidden channels of the correction."""
        return self.decoder.width

    def changed(self, *, width: int, **changes: Any) -> DecoderTrialJob:
        """Return the job with another width, and other fields."""
        return replace(self, decoder=replace(self.decoder, width=width), **changes)

    def train(self, folder: Path, metrics: Sequence[str]) -> None:
        """Train from the start; nothing is written to the folder."""
        device = torch.device("cuda" if self.use_gpu else "cpu")
        torch.set_num_threads(self.num_threads)
        torch.manual_seed(self.seed)
        source = self.source(0, 1, device)
        state = start(self.build().to(device), self.plan, source.steps_per_epoch)
        fit(state, self.plan, source, ReportToTune(metrics))

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

    def __init__(
        self, job: DecoderTrialJob, rank: int, world_size: int, device: torch.device
    ) -> None:
        super().__init__(job, rank, world_size, device)
        self.data, self.scale, self.final = job.data[0], job.scale, job.final
        self.canvas = {}  # All pictures have one size.

    def gaze(self, split: str, position: int) -> Decoded:
        """Return where people looked in a smaller picture."""
        return shrink(super().gaze(split, position), self.scale)

    def val(self) -> Iterator[TrainBatch]:
        """Return the half of val that trials are tuned on."""
        return self._half(0)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the scores on the tuned half; in a final run on the held-out half too."""
        held_out = self._half(1) if self.final else None
        return score_halves(model, self.data, self.val(), held_out)

    def _half(self, number: int) -> Iterator[TrainBatch]:
        return self.val_images(np.array(halves(len(self.readers["val"]))[number]))


class CoarseDecoder(Decoder):
    """A decoder that is given smaller readouts: those above `scale` of the finest are reduced."""

    def __init__(self, decoder: Decoder, scale: float) -> None:
        super().__init__()
        self.decoder, self.scale = decoder, scale

    def forward(
        self, readouts: list[list[Tensor]], log_densities: list[Tensor], size: Size
    ) -> Tensor:
        """Return the decoder's map (B, 1, H, W)."""
        limit = scaled(max(_size(each) for given in readouts for each in given), self.scale)
        coarse = [[resize(each, min(_size(each), limit)) for each in given] for given in readouts]
        answer: Tensor = self.decoder(coarse, log_densities, size)
        return answer


def _size(maps: Tensor) -> Size:
    return maps.shape[-2], maps.shape[-1]


def trial_size(encoder: EncoderConfig, scale: float) -> Size:
    """Return the (H, W) at which the backbone sees pictures at a scale, a size that it accepts."""
    row = find_backbone(encoder.backbone)
    if scale == 1 or row.only_size:
        return encoder.size
    least = -(-32 // row.step) * row.step
    height, width = (max(least, side) for side in scaled(encoder.size, scale, row.step))
    return height, width


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """What all trials of a search share; sent to their processes.

    folder: of the search.  title: of the tuned model, for tables.  job: its training in full, with
    1:1:1.  stop_by: metric by which bad trials are stopped, None stops none.  trial_epochs,
    trial_scale: of a trial.
    """

    folder: Path
    title: str
    job: EncoderTrialJob | DecoderTrialJob
    space: Space
    objectives: tuple[str, ...]
    stop_by: str | None
    trial_epochs: int
    trial_scale: float

    def folder_of(self, config: Mapping[str, Any]) -> Path:
        """Return the folder of a trial, the same whenever it is run; config: of Ray Tune."""
        kind = "finals" if "final" in config else "trials"
        return self.folder / kind / digest(**config)[:12]

    def make_job(self, config: Mapping[str, Any]) -> EncoderTrialJob | DecoderTrialJob:
        """Return the job of a config of Ray Tune.

        config: `point` of a trial, or `final` with the `point` and `seed` of a final run.
        """
        final, job = config.get("final"), self.job
        point = final["point"] if final else config["point"]
        plan = replace(
            self.space.plan(point, job.plan),
            epochs=job.plan.epochs if final else self.trial_epochs,
            select=self.objectives[0],  # `ig` is scored here.
        )
        return job.changed(
            plan=plan,
            width=self.space.width(point, job.width),
            seed=final["seed"] if final else job.seed,
            scale=1.0 if final else self.trial_scale,
            final=bool(final),
        )


def run_trial(config: dict[str, Any], settings: TrialSettings) -> None:
    """Train a config's job; Ray Tune calls it.  Raises RuntimeError with the reason in a line."""
    folder = settings.folder / CHECKPOINTS / settings.folder_of(config).name
    metrics = {*settings.objectives, settings.stop_by or settings.objectives[0]}
    try:
        settings.make_job(config).train(folder, sorted(metrics))
    except Exception as error:
        raise RuntimeError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Return the last line of an error, of the worker that failed first if one did."""
    failures = getattr(error.__cause__, "worker_failures", None)
    root = next(iter(failures.values())) if failures else error
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return lines[-1] if lines else type(root).__name__
