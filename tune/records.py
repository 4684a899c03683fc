"""Records of trials, and the best of them: by one objective, or the knee of a front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emlnet.losses.weighted import LossWeights
from emlnet.metrics.saliency_metrics import BY_NAME
from pipelines.tracking.run_folder import read_json, write_json
from tune.space import BASELINE_WEIGHTS, FACTORS, short
from tune.trial import OpenSearch

RECORD = "trial.json"
TrialState = Literal["unfinished", "finished", "stopped", "failed"]
"""`unfinished`: it runs, or its search was killed.  `stopped`: it ended early, by the scheduler or
because time was up."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """The outcome of a trial, or of a final run.

    number: place in the order of proposal.  other: searched values other than loss weights, by
    name.
    history: an EpochReport per epoch, as dicts.  epoch, scores: the best epoch by the first
    objective, and its scores.  reason: why it failed.
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
        search: OpenSearch,
        config: Mapping[str, Any],
        history: Sequence[dict[str, Any]] = (),
        *,
        number: int = 0,
        reason: str = "",
    ) -> TrialRecord:
        """Return a trial's record; without a trained epoch its state is `unfinished`."""
        job = search.make_job(config)
        other = {"lr": job.plan.lr, "width": float(job.width)}
        trained = [report for report in history if report["epoch"] > 0]
        objective = search.command.search.objectives[0]
        sign = BY_NAME[objective].sign
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
            other={name: other[name] for name in search.command.search.space.also},
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
        """Its weights and other searched values, as text."""
        other = [f"{name}={value:g}" for name, value in self.other.items()]
        return " ".join([short(self.weights), *other])

    @property
    def is_baseline(self) -> bool:
        """Whether the weights are 1:1:1 and nothing else differs from the command."""
        same = all(self.point.get(name, 1.0) == 1.0 for name in FACTORS)
        return self.weights == BASELINE_WEIGHTS and same

    @property
    def num_trained(self) -> int:
        """Number of epochs that were trained."""
        return max((report["epoch"] for report in self.history), default=0)

    @property
    def seconds(self) -> float:
        """Seconds of its epochs, validation included."""
        return sum((float(report["seconds"]) for report in self.history), 0.0)


def load_record(folder: Path) -> TrialRecord | None:
    """Return the record in a trial's folder; None if there is none."""
    content = read_json(folder / RECORD)
    if content is None:
        return None
    return TrialRecord(**{**content, "weights": LossWeights(**content["weights"])})


def read_records(folder: Path) -> list[TrialRecord]:
    """Return the records of all trials in a folder, by number."""
    found = [load_record(path.parent) for path in folder.glob(f"*/{RECORD}")]
    return sorted((record for record in found if record), key=lambda record: record.number)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The winner of a search.  front: the Pareto front.  reason: why it won, in words."""

    winner: TrialRecord
    front: list[TrialRecord]
    reason: str


def count(number: int, thing: str) -> str:
    """Return `1 seed`, `3 seeds`."""
    return f"{number} {thing}{'s' * (number != 1)}"


def rank(records: Sequence[TrialRecord], objective: str) -> list[TrialRecord]:
    """Return the trials with scores, the best by one objective first.

    Finished trials come before those stopped early, which were scored after fewer epochs.
    """
    sign = BY_NAME[objective].sign
    scored = [record for record in records if record.scores and record.state != "failed"]
    return sorted(scored, key=lambda r: (r.state != "finished", -sign * r.scores[objective]))


def choose(records: Sequence[TrialRecord], objectives: Sequence[str]) -> Choice | None:
    """Return the winner, a finished trial if there is one; None if no trial has scores."""
    ranked = rank(records, objectives[0])
    ranked = [record for record in ranked if record.state == "finished"] or ranked
    if not ranked:
        return None
    best = front(ranked, objectives) if len(objectives) > 1 else ranked[:1]
    trials = count(len(records), "trial")
    names = " and ".join(objectives)
    reason = f"the best {names} of {trials}"
    if len(best) > 1:
        reason = (
            f"the knee of the Pareto front, {len(best)} of {trials}: the trial nearest to the best "
            f"{names}, each scaled by its range on the front"
        )
    return Choice(winner=knee(best, objectives), front=best, reason=reason)


def front(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[TrialRecord]:
    """Return the Pareto front: the trials that no other dominates, in their order."""
    values = _values(records, objectives)
    beaten = [((values >= own).all(1) & (values > own).any(1)).any() for own in values]
    return [record for record, is_beaten in zip(records, beaten, strict=True) if not is_beaten]


def knee(records: Sequence[TrialRecord], objectives: Sequence[str]) -> TrialRecord:
    """Return the trial nearest to the best of each objective, scaled by its range on the front."""
    values = _values(records, objectives)
    ranges = np.ptp(values, axis=0)
    losses = (values.max(0) - values) / np.where(ranges, ranges, 1)
    return records[int(np.linalg.norm(losses, axis=1).argmin())]


def _values(records: Sequence[TrialRecord], objectives: Sequence[str]) -> NDArray[np.float64]:
    """Return scores (trials, objectives), with signs so that higher is better."""
    return np.array([[BY_NAME[o].sign * r.scores[o] for o in objectives] for r in records])
