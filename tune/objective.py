"""One trial: a short stage under Ray Train, scored on val by a metric that no weight enters."""

from __future__ import annotations

import math
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from torch import nn

from emlnet.encoder import EncoderConfig
from emlnet.finite import DivergedError
from emlnet.losses import LossWeights
from emlnet.state import LOWER_IS_BETTER, EpochReport, Plan
from pipelines import trainer
from pipelines.config import flatten
from pipelines.encoders import EncoderJob
from pipelines.provenance import data_tags
from pipelines.stage import Place
from pipelines.tracking import EpochLogger
from tune.results import TRIALS, TrialRecord, find_record
from tune.space import Point, Space, short

Objective = Literal["kl", "nss", "cc", "sim"]
SCORE = "score"
"""The name under which Ray Tune sees the objective."""
START_TIMEOUT_S = "180"
"""Seconds after which workers that the cluster has no room for fail a trial, instead of never."""


def direction(objective: Objective) -> Literal["min", "max"]:
    """Whether less or more of a metric is better."""
    return "min" if objective in LOWER_IS_BETTER else "max"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all trials of a search share.

    place: the search's; its parent is the search's MLflow run.  num_threads: CPU threads of each
    worker.
    """

    place: Place
    space: Space
    objective: Objective
    encoder: EncoderConfig
    plan: Plan
    seed: int
    num_threads: int

    def trial_folder(self, trial_id: str) -> Path:
        """A trial's own folder."""
        return self.place.folder / TRIALS / trial_id

    def job(self, point: Point) -> TrialJob:
        """The training that a point stands for; its best epoch is the best by the objective."""
        plan = replace(self.space.plan(point, self.plan), select=self.objective)
        return TrialJob(
            data=self.place.data,
            encoder=self.encoder,
            plan=plan,
            seed=self.seed,
            loader_workers=self.place.compute.loader_workers,
            num_threads=self.num_threads,
        )


@dataclass(frozen=True, kw_only=True)
class TrialJob(EncoderJob):
    """An encoder's training that leaves the trials beside it their share of the cores."""

    num_threads: int

    @property
    def title(self) -> str:
        """What progress lines call it."""
        return f"trial {short(self.plan.loss_weights)}"

    def build(self) -> nn.Module:
        """The encoder, its backbone with the weights to start from."""
        if not torch.cuda.is_available():
            torch.set_num_threads(self.num_threads)
        return super().build()


class ScoreReporter(TuneReportCallback):  # type: ignore[misc]
    """Hands Ray Tune each epoch's best score so far, from Ray Train's controller."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.scores: list[float] = []

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Called when every worker has reported."""
        report = metrics[0].get("report")
        if report is None:
            return
        self.scores.append(report["scores"][self.objective])
        best = min(self.scores) if direction(self.objective) == "min" else max(self.scores)
        super().after_report(run_context, [{"epoch": report["epoch"], SCORE: best}], None)


def run_trial(point: dict[str, float], setting: Setting) -> dict[str, float]:
    """Trains at a point and returns its score; what became of it stays as a record in its folder.

    A trial that was interrupted goes on from its last checkpoint, one that ended isn't run again.
    Raises whatever failed, DivergedError when loss or score is not finite.
    """
    folder = setting.trial_folder(tune.get_context().get_trial_id())
    found = find_record(folder)
    if found is None:
        found = _run(setting.job(point), folder, setting)
    if found.state == "failed":
        raise RuntimeError(found.cause)
    return {"epoch": found.epoch, SCORE: found.scores[setting.objective]}


def _run(job: TrialJob, folder: Path, setting: Setting) -> TrialRecord:
    """Trains a job under an MLflow run of its own, and records the outcome."""
    started, weights, place = time.time(), job.plan.loss_weights, setting.place
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", START_TIMEOUT_S)
    run_id = ""
    try:
        with place.tracker.run(
            folder,
            short(weights),
            params=_params(job, setting.space),
            tags={**data_tags("trial", place.manifest), "backbone": job.encoder.backbone},
            parent=place.parent,
        ) as run_id:
            callbacks = [EpochLogger(place.tracker, run_id), ScoreReporter(setting.objective)]
            content = trainer.train(job, folder / "training", place.compute, callbacks)
            best = best_epoch(content["history"], job.title, setting.objective)
            scores = {f"best_{name}": value for name, value in best.scores.items()}
            place.tracker.metrics(run_id, {**scores, SCORE: best.scores[setting.objective]})
    except Exception as error:
        seconds = time.time() - started
        cause = one_line(error).removeprefix(f"{job.title}: ")
        if run_id:
            place.tracker.describe(run_id, f"Failed: {cause}")
        fail(folder, weights, cause, started=started, seconds=seconds, run_id=run_id)
        raise
    record = TrialRecord(
        weights=weights,
        state="finished",
        epoch=best.epoch,
        scores=best.scores,
        seconds=time.time() - started,
        started=started,
        run_id=run_id,
    )
    record.save(folder)
    shutil.rmtree(folder / "training", ignore_errors=True)
    return record


def _params(job: TrialJob, space: Space) -> dict[str, Any]:
    """What MLflow is told of a trial: each weight as a number of its own, and all the rest."""
    weights = {f"weight_{term}": getattr(job.plan.loss_weights, term) for term in space.terms}
    return {**weights, **flatten(job.encoder), **flatten(job.plan), "seed": job.seed}


def best_epoch(history: list[dict[str, Any]], title: str, objective: Objective) -> EpochReport:
    """The epoch that training kept.  Raises DivergedError when its score is not finite."""
    reports = [EpochReport(**report) for report in history]
    best = next((report for report in reversed(reports) if report.best), reports[-1])
    score = best.scores[objective]
    if not math.isfinite(score):
        raise DivergedError(f"{title}: {objective} on val is {score}")
    return best


def fail(folder: Path, weights: LossWeights, cause: str, **more: Any) -> None:
    """Marks a trial as failed."""
    TrialRecord(weights=weights, state="failed", cause=cause, **more).save(folder)


def one_line(error: BaseException) -> str:
    """What went wrong, in the words of the worker where it did, if it did in one."""
    failures = getattr(error.__cause__, "worker_failures", None)
    root = next(iter(failures.values())) if failures else error
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return lines[-1] if lines else type(root).__name__
