"""One trial, inside Ray Tune: trains at a point, and reports the scores of each epoch."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from emlnet.training.state import Plan
from pipelines.config.options import Compute
from tune.objective import is_finite
from tune.results import Spec, trial_folder
from tune.space import Space

EPOCH, SCORE, REPORT, SPEC = "epoch", "score", "report", "spec"
"""What Ray Tune sees of a trial: two numbers for its scheduler, and all for the records."""
START_TIMEOUT_S = "180"
"""Seconds after which workers that the cluster has no room for fail a trial, instead of never."""

Half = Literal["tuned", "held_out"]


class Subject(Protocol):
    """What the weights are searched for: an encoder, or the decoder."""

    @property
    def reuse_actors(self) -> bool:
        """Whether a process runs one trial after another."""

    @property
    def resources(self) -> dict[str, float]:
        """What a trial's own process takes of the cluster, beside its workers."""

    @property
    def title(self) -> str:
        """What it is called in tables."""

    @property
    def width(self) -> int:
        """Hidden channels that `Space.also` may change."""

    def train(self, trial: Trial, folder: Path, result: Result) -> None:
        """Trains, from where an earlier attempt in the folder stopped; tells Ray Tune each epoch.

        Raises whatever failed, DivergedError when the loss is not finite.
        """


@dataclass(frozen=True, kw_only=True)
class Result:
    """Makes of an epoch's report what Ray Tune is told; raises ValueError for scores of NaN."""

    objectives: tuple[str, ...]
    stop_by: str

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any]:
        """entry: as emlnet.training.state.EpochReport."""
        scores = entry["scores"]
        if not is_finite(scores, (*self.objectives, self.stop_by)):
            raise ValueError(f"a score on val is no number: {scores}")
        return {EPOCH: entry["epoch"], SCORE: scores[self.stop_by], REPORT: entry}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A training in full.

    width: hidden channels.  scale: of the pictures.  halves: of val that are scored.
    """

    plan: Plan
    width: int
    seed: int
    scale: float
    halves: tuple[Half, ...]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all trials of a search share; sent to their processes.

    folder: the search's.  plan: of the real training.  trial_epochs, trial_scale: of trials.
    stop_by: the metric that the scheduler ranks by.
    """

    folder: Path
    subject: Subject
    space: Space
    objectives: tuple[str, ...]
    stop_by: str
    plan: Plan
    trial_epochs: int
    trial_scale: float

    def trial(self, spec: Spec) -> Trial:
        """The training that a spec stands for; it keeps the best epoch by the first objective."""
        plan = replace(
            self.space.plan(spec.point, self.plan),
            epochs=self.plan.epochs if spec.final else self.trial_epochs,
            select=self.objectives[0],  # IG, too, is scored here.
        )
        return Trial(
            plan=plan,
            width=self.space.width(spec.point, self.subject.width),
            seed=spec.seed,
            scale=1.0 if spec.final else self.trial_scale,
            halves=("tuned", "held_out") if spec.final else ("tuned",),
        )


CAUSE = "cause.txt"
"""File in the folder of a trial that failed: Tune tells nobody why before all is over."""


def run_trial(config: dict[str, Any], setting: Setting) -> None:
    """Trains at a point; Ray Tune calls it."""
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", START_TIMEOUT_S)
    spec: Spec = config[SPEC]
    folder = trial_folder(setting.folder, spec)
    result = Result(objectives=setting.objectives, stop_by=setting.stop_by)
    try:
        setting.subject.train(setting.trial(spec), folder, result)
    except Exception as error:
        (folder / CAUSE).write_text(one_line(error))
        raise


def one_line(error: BaseException) -> str:
    """What went wrong, in the words of the worker where it did, if it did in one."""
    failures = getattr(error.__cause__, "worker_failures", None)
    root = next(iter(failures.values())) if failures else error
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return lines[-1] if lines else type(root).__name__


def trial_compute(compute: Compute, num_threads: int) -> Compute:
    """The compute of a trial: it leaves the trials beside it their share of the cores."""
    return replace(compute, threads=compute.threads or num_threads, max_failures=0)
