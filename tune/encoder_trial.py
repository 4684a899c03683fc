"""Trials of an encoder: each a Ray Train run, on as many workers as the command says."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from safetensors.torch import load_file, save_file
from torch import nn

from emlnet.backbones import check_keys, find_backbone
from emlnet.data.framing import Size
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.finetune import Finetune, prepare
from emlnet.training.state import Plan
from emlnet.training.validation import evaluate
from pipelines.config.options import Compute
from pipelines.ray_train import trainer
from pipelines.stages.encoder_stage import EncoderJob, ShardSource
from shards.read.loader import Loader
from shards.read.reader import ShardReader
from tune.objective import HELD_OUT, centre_baseline, halves
from tune.results import TRAINING
from tune.smaller import SmallReader, scaled
from tune.space import EQUAL, short
from tune.trial import REPORT, Half, Result, Trial

WARM_UP = "warm-up"


@dataclass(frozen=True, kw_only=True)
class TrialJob(EncoderJob):
    """An encoder's training on smaller pictures, scored on halves of val.

    warm_start: file of weights that it starts from.
    """

    scale: float
    halves: tuple[Half, ...]
    warm_start: Path | None = None

    @property
    def title(self) -> str:
        """What progress lines call it."""
        return f"trial {short(self.plan.loss_weights)}"

    def build(self) -> nn.Module:
        """The encoder, as the warm-up left it if there was one."""
        if self.warm_start is None:
            return super().build()
        encoder = Encoder(self.encoder, load_weights=False)
        weights = load_file(self.warm_start)
        check_keys(encoder.state_dict(), weights, str(self.warm_start))
        encoder.load_state_dict(weights)
        return prepare(encoder, self.finetune)

    def reader(self, split: str) -> ShardReader:
        """The pictures to train on, or to choose the best epoch with."""
        reader = SmallReader(self.data[0], split, self.scale)
        return reader if split == "train" else reader.subset(halves(len(reader))[0])

    def source(self, rank: int, world_size: int, device: torch.device) -> TrialSource:
        """One rank's batches."""
        return TrialSource(self, rank, world_size, device)


class TrialSource(ShardSource):
    """One rank's batches; the model is scored under the `tuebingen` rules, on each half asked."""

    def __init__(self, job: TrialJob, rank: int, world_size: int, device: torch.device) -> None:
        super().__init__(job, rank, world_size, device)
        self.baseline = centre_baseline(job.data[0])
        self._held_out: Loader | None = None
        if "held_out" in job.halves:
            reader = SmallReader(job.data[0], "val", job.scale)
            rest = reader.subset(halves(len(reader))[1])
            self._held_out = Loader(
                rest, job.plan.batch_size, rank=rank, world_size=world_size, errors=job.errors
            )

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Scores of the tuned half, and with a prefix those of the held-out one."""
        scores = evaluate(model, self.val(), "tuebingen", baseline=self.baseline)
        if self._held_out is not None:
            batches = map(self._prepare, self._held_out.epoch(0))
            held_out = evaluate(model, batches, "tuebingen", baseline=self.baseline)
            scores |= {f"{HELD_OUT}{name}": value for name, value in held_out.items()}
        return scores


class EpochReporter(TuneReportCallback):  # type: ignore[misc]
    """Tells Ray Tune each epoch, from Ray Train's controller through the trial's own process."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Called when every worker has reported."""
        if metrics[0].get(REPORT) is not None:
            super().after_report(run_context, [self.result(metrics[0][REPORT])], None)


@dataclass(frozen=True, kw_only=True)
class EncoderSubject:
    """An encoder whose weights of the loss are searched.

    compute: of one trial.  warm_start: file of weights that trials start from.
    """

    data: Path | str
    encoder: EncoderConfig
    compute: Compute
    finetune: Finetune = field(default_factory=Finetune)
    warm_start: Path | None = None

    # A process whose training was stopped from outside is not fit for another.
    reuse_actors = False
    # It only waits for its workers: a CPU for it would be one that they wait for.
    resources = {"CPU": 0, "node:__internal_head__": 0.01}  # noqa: RUF012

    @property
    def title(self) -> str:
        """What it is called in tables."""
        return self.encoder.backbone

    @property
    def width(self) -> int:
        """Hidden channels of each readout."""
        return self.encoder.readout_width

    def job(self, trial: Trial) -> TrialJob:
        """The training of a trial; the final ones start anew, at the real size."""
        size = trial_size(self.encoder, trial.scale)
        final = "held_out" in trial.halves
        return TrialJob(
            data=(self.data,),
            encoder=replace(self.encoder, size=size, readout_width=trial.width),
            plan=trial.plan,
            seed=trial.seed,
            loader_workers=self.compute.loader_workers,
            errors=self.compute.errors,
            finetune=self.finetune,
            scale=trial.scale,
            halves=trial.halves,
            warm_start=None if final else self.warm_start,
        )

    def train(self, trial: Trial, folder: Path, result: Result) -> None:
        """Trains under Ray Train."""
        content = trainer.train(
            self.job(trial),
            folder / TRAINING,
            self.compute,
            [EpochReporter(result)],
            start_failures=0,
        )
        # The last epoch may have been on its way when training ended; told twice, it counts once.
        tune.report(result(content["history"][-1]))

    def warm_up(self, plan: Plan, epochs: int, scale: float, seed: int, folder: Path) -> Path:
        """Trains with equal weights for a few epochs, once; the file of weights it ends with."""
        path = folder / f"{WARM_UP}.safetensors"
        if path.is_file():
            return path
        plan = replace(plan, epochs=epochs, loss_weights=EQUAL)
        trial = Trial(plan=plan, width=self.width, seed=seed, scale=scale, halves=("tuned",))
        job = self.job(trial)
        content = trainer.train(job, folder / WARM_UP, self.compute)
        temporary = path.with_suffix(".tmp")
        weights = job.finish(content["model"]).state_dict()
        save_file({k: v.contiguous() for k, v in weights.items()}, temporary)
        temporary.replace(path)
        shutil.rmtree(folder / WARM_UP, ignore_errors=True)
        return path


def trial_size(encoder: EncoderConfig, scale: float) -> Size:
    """(H, W) in pixels, of those the backbone takes, at which it sees pictures at a scale."""
    row = find_backbone(encoder.backbone)
    if scale == 1 or row.only_size:
        return encoder.size
    least = -(-32 // row.step) * row.step
    height, width = (max(least, side) for side in scaled(encoder.size, scale, row.step))
    return height, width
