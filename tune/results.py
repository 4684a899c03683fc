"""Trials on disk: what is to run, and a record of what became of it, the truth of a search."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from emlnet.losses.weighted import LossWeights
from pipelines.config.identity import digest
from pipelines.tracking.run_folder import write_json
from tune.objective import gain
from tune.space import EQUAL, FACTORS

TRIALS, RESULT, TRAINING = "trials", "result.json", "training"
State = Literal["running", "finished", "stopped", "failed"]
"""`stopped`: early, by the scheduler or because time was up."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One training to run.

    point: what the sampler drew.  final: the real training, scored on both halves of val, rather
    than a trial of the search.
    """

    point: dict[str, float]
    seed: int
    final: bool = False

    @property
    def key(self) -> str:
        """The name of its folder: the same for the same training."""
        return f"{'final' if self.final else 'trial'}-{digest(spec=self)[:12]}"


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial.

    weights: what the point says; other: further numbers that are searched, by name.
    history: the reports of its epochs (EpochReport) so far.  num_epochs: of a whole
    trial.  epoch, scores: of the best epoch by the first objective; `tuebingen` scores on val.
    started: seconds since 1970; seconds: wall time with start-up, over all attempts.
    run_id: its MLflow run.  cause: why it failed, one line.
    """

    spec: Spec
    weights: LossWeights
    other: dict[str, float] = field(default_factory=dict)
    num_epochs: int = 1
    state: State = "running"
    history: list[dict[str, Any]] = field(default_factory=list)
    epoch: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    started: float = 0.0
    seconds: float = 0.0
    run_id: str = ""
    cause: str = ""

    @property
    def is_baseline(self) -> bool:
        """Whether the weights are 1:1:1, and nothing else differs from the command."""
        same = all(self.spec.point.get(name, 1.0) == 1.0 for name in FACTORS)
        return self.weights == EQUAL and same

    @property
    def num_trained(self) -> int:
        """Epochs that were trained so far."""
        return max((report["epoch"] for report in self.history), default=0)

    def with_report(self, report: dict[str, Any], objective: str) -> TrialRecord:
        """The record with one more epoch; one that was broken off and done again counts once."""
        history = [past for past in self.history if past["epoch"] < report["epoch"]] + [report]
        trained = [past for past in history if past["epoch"] > 0] or history
        best = trained[0]
        for other in trained[1:]:
            if gain(objective, other["scores"], best["scores"]) > 0:
                best = other
        return replace(self, history=history, epoch=best["epoch"], scores=best["scores"])

    def save(self, search: Path) -> None:
        """Writes the record into the trial's own folder."""
        folder = search / TRIALS / self.spec.key
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RESULT, asdict(self))


def trial_folder(search: Path, spec: Spec) -> Path:
    """A trial's own folder."""
    return search / TRIALS / spec.key


def find_record(search: Path, spec: Spec) -> TrialRecord | None:
    """The record of a trial that has begun."""
    return _read(trial_folder(search, spec) / RESULT)


def _read(path: Path) -> TrialRecord | None:
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    content["spec"] = Spec(**content["spec"])
    return TrialRecord(**{**content, "weights": LossWeights(**content["weights"])})


def find_records(search: Path, *, final: bool = False) -> list[TrialRecord]:
    """The records of a search's trials, or of its final runs, in the order they began."""
    found = [_read(path) for path in (search / TRIALS).glob(f"*/{RESULT}")]
    records = [record for record in found if record is not None and record.spec.final == final]
    return sorted(records, key=lambda record: record.started)


def ended(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that will not go on."""
    return [record for record in records if record.state != "running"]


def scored(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those with scores to compare: they finished, or were stopped after an epoch at least."""
    return [r for r in records if r.state in ("finished", "stopped") and r.scores]


def forget_failed(search: Path) -> None:
    """Removes what failed trials left."""
    for record in find_records(search) + find_records(search, final=True):
        if record.state == "failed":
            shutil.rmtree(trial_folder(search, record.spec))


def forget_training(search: Path) -> None:
    """Removes the checkpoints of trials that will not go on."""
    for folder in (search / TRIALS).glob(f"*/{TRAINING}"):
        record = _read(folder.parent / RESULT)
        if record is not None and record.state != "running":
            shutil.rmtree(folder, ignore_errors=True)


def seconds_spent(records: Sequence[TrialRecord]) -> float:
    """Wall time of a search: all moments at which at least one of its trials ran."""
    total, until = 0.0, 0.0
    for begin, end in sorted((r.started, r.started + r.seconds) for r in records):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def find_baseline(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial of 1:1:1, if there is one."""
    return next((record for record in records if record.is_baseline), None)
