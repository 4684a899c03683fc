"""What became of trials, and the best of them: by one objective, or the knee of a front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from emlnet.losses.weighted import LossWeights
from pipelines.tracking.run_folder import read_json, write_json
from tune.objective import direction, gain
from tune.space import EQUAL, FACTORS, short
from tune.trial import TrialSettings

RECORD = "trial.json"
TrialState = Literal["unfinished", "finished", "stopped", "failed"]
"""`unfinished`: it runs, or its search was killed.  `stopped`: early, by the scheduler or because
time was up."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """What became of a trial, or of a final run.

    number: in the order in which they began.  other: further numbers that were searched, by name.
    history: its epochs, each an EpochReport
    as a dict.  epoch, scores: of the best epoch by the first objective.  reason: why it failed.
    """

    number: int = 0
    point: dict[str, float]
    seed: int
    final: bool = False
    weights: LossWeights
    other: dict[str, float] = field(default_factory=dict)
    state: TrialState = "finished"
    history: list[dict[str, Any]] = field(default_factory=list)
    epoch: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    @classmethod
    def of(
        cls,
        settings: TrialSettings,
        config: Mapping[str, Any],
        history: Sequence[dict[str, Any]],
        *,
        number: int = 0,
        reason: str = "",
    ) -> TrialRecord:
        """Return the record of a trial that ended.

        A trial that was stopped before its first epoch ended is unfinished.
        """
        job = settings.make_job(config)
        other = {"lr": job.plan.lr, "width": float(job.width)}
        trained = [report for report in history if report["epoch"] > 0]
        objective, sign = settings.objectives[0], 1
        if direction(objective) == "min":
            sign = -1
        best = max(trained, key=lambda r: sign * r["scores"][objective], default={})
        state: TrialState = "unfinished"
        if reason:
            state = "failed"
        elif trained:
            state = "finished" if trained[-1]["epoch"] == job.plan.epochs else "stopped"
        return cls(
            number=number,
            point=dict((config.get("final") or config)["point"]),
            seed=job.seed,
            final=job.final,
            weights=job.plan.loss_weights,
            other={name: other[name] for name in settings.space.also},
            state=state,
            history=list(history),
            epoch=best.get("epoch", 0),
            scores=best.get("scores", {}),
            reason=reason,
        )

    def save(self, folder: Path) -> None:
        """Write the record to the trial's folder."""
        write_json(folder / RECORD, asdict(self))

    @property
    def name(self) -> str:
        """Its weights and what else was searched, for tables."""
        other = [f"{name}={value:g}" for name, value in self.other.items()]
        return " ".join([short(self.weights), *other])

    @property
    def is_baseline(self) -> bool:
        """Whether the weights are 1:1:1 and nothing else differs from the command."""
        same = all(self.point.get(name, 1.0) == 1.0 for name in FACTORS)
        return self.weights == EQUAL and same

    @property
    def num_trained(self) -> int:
        """Number of epochs that were trained."""
        return max((report["epoch"] for report in self.history), default=0)

    @property
    def seconds(self) -> float:
        """Seconds of its epochs, validation included."""
        return sum((float(report["seconds"]) for report in self.history), 0.0)


def load_record(folder: Path) -> TrialRecord | None:
    """Return the record in a trial's folder; None when there is none."""
    content = read_json(folder / RECORD)
    if content is None:
        return None
    return TrialRecord(**{**content, "weights": LossWeights(**content["weights"])})


def read_records(folder: Path) -> list[TrialRecord]:
    """Return the records of all trials in a folder, in the order in which they began."""
    found = [load_record(path.parent) for path in folder.glob(f"*/{RECORD}")]
    return sorted((record for record in found if record), key=lambda record: record.number)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The winner of a search.  front: all trials that no other beats.  reason: in words."""

    winner: TrialRecord
    front: list[TrialRecord]
    reason: str


def rank(records: Sequence[TrialRecord], objective: str) -> list[TrialRecord]:
    """Return the trials with scores, the best by one objective first.

    Finished trials come before those that were stopped early, whose scores are of fewer epochs.
    """
    sign = 1 if direction(objective) == "min" else -1
    scored = [record for record in records if record.scores and record.state != "failed"]
    return sorted(scored, key=lambda r: (r.state != "finished", sign * r.scores[objective]))


def choose(records: Sequence[TrialRecord], objectives: Sequence[str]) -> Choice | None:
    """Return the winner: of the finished trials if there are any; None when none has scores."""
    ranked = rank(records, objectives[0])
    ranked = [record for record in ranked if record.state == "finished"] or ranked
    if not ranked:
        return None
    trials = f"{len(records)} trial{'s' * (len(ranked) > 1)}"
    if len(objectives) == 1:
        reason = f"the best {objectives[0]} of {trials}"
        return Choice(winner=ranked[0], front=ranked[:1], reason=reason)
    best, names = front(ranked, objectives), " and ".join(objectives)
    reason = f"the best of {trials} in both {names}"
    if len(best) > 1:
        reason = (
            f"the knee of a front of {len(best)} of {trials}: the nearest to the best {names}, "
            "each scaled by its range on the front"
        )
    return Choice(winner=knee(best, objectives), front=best, reason=reason)


def front(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[TrialRecord]:
    """Return the Pareto front: the trials that no other dominates, in their order."""

    def dominates(first: TrialRecord, second: TrialRecord) -> bool:
        gains = [gain(name, first.scores, second.scores) for name in objectives]
        return min(gains) >= 0 and max(gains) > 0

    return [r for r in records if not any(dominates(other, r) for other in records)]


def knee(records: Sequence[TrialRecord], objectives: Sequence[str]) -> TrialRecord:
    """Return the trial of a front that is nearest to the best of each objective, in units of the
    objective's range on the front.
    """
    first = records[0].scores
    gains = {name: [gain(name, r.scores, first) for r in records] for name in objectives}

    def distance(position: int) -> float:
        ranges = [(max(each) - each[position], max(each) - min(each)) for each in gains.values()]
        return math.hypot(*(loss / size for loss, size in ranges if size))

    return records[min(range(len(records)), key=distance)]


def find_baseline(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the trial of 1:1:1 if there is one."""
    return next((record for record in records if record.is_baseline), None)
