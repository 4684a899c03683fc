"""What trials gave: a record on disk for each, the table, the best weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

from emlnet.losses import LossWeights
from emlnet.state import better
from pipelines.runs import write_json
from tune.space import EQUAL, short

TRIALS, RESULT, BEST_WEIGHTS = "trials", "result.json", "best-weights.json"
COLUMNS = ("kl", "nss", "cc", "sim")


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial.

    epoch: the best by the objective, counted from 1.  scores: of that epoch on val, the `mit`
    rules.  seconds: wall time with start-up.  started: seconds since 1970.  run_id: its MLflow run.
    cause: why it failed, one line.
    """

    weights: LossWeights
    state: Literal["finished", "failed"]
    epoch: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    started: float = 0.0
    run_id: str = ""
    cause: str = ""

    @property
    def is_baseline(self) -> bool:
        """Whether the weights are 1:1:1."""
        return self.weights == EQUAL

    def save(self, folder: Path) -> None:
        """Writes the record into the trial's own folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RESULT, asdict(self))


def find_record(folder: Path) -> TrialRecord | None:
    """The record of a trial that ended, from its folder."""
    path = folder / RESULT
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    return TrialRecord(**{**content, "weights": LossWeights(**content["weights"])})


def find_records(search: Path) -> list[TrialRecord]:
    """The records of a search's trials that ended: 1:1:1, then the others in the order they began.

    Trials that run at once begin in any order, although 1:1:1 is proposed first.
    """
    found = [find_record(folder) for folder in (search / TRIALS).glob("*")]
    records = [record for record in found if record is not None]
    return sorted(records, key=lambda record: (not record.is_baseline, record.started))


def forget_failed(search: Path) -> None:
    """Removes what failed trials left, and the result that counted them."""
    (search / BEST_WEIGHTS).unlink(missing_ok=True)
    for folder in (search / TRIALS).glob("*"):
        record = find_record(folder)
        if record is not None and record.state == "failed":
            shutil.rmtree(folder)


def best_record(records: Sequence[TrialRecord], objective: str) -> TrialRecord | None:
    """The finished trial with the best score, the first of equal ones; None when none finished."""
    best: TrialRecord | None = None
    for record in records:
        if record.state == "finished" and (
            best is None or better(record.scores, best.scores, objective)
        ):
            best = record
    return best


def find_baseline(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial of 1:1:1, if it ended."""
    return next((record for record in records if record.is_baseline), None)


def table(records: Sequence[TrialRecord], objective: str) -> str:
    """The trials as a table of text, a row each: best first, failed ones last."""
    best = best_record(records, objective)
    width = max(len(short(record.weights)) for record in records)
    columns = (objective, *(name for name in COLUMNS if name != objective))
    lines = [f"{'weights':<{width}}" + "".join(f"{c:>9}" for c in columns) + "    epoch  seconds"]
    for record in _ranked(records, objective):
        name = f"{short(record.weights):<{width}}"
        marks = [
            *(["winner"] if record is best else []),
            *(["baseline"] if record.is_baseline else []),
        ]
        if record.state == "failed":
            cause = shorten(record.cause, 100, placeholder=" ...")
            lines.append(f"{name}  failed: {cause}  {', '.join(marks)}".rstrip())
            continue
        values = "".join(f"{record.scores[column]:>9.4f}" for column in columns)
        row = f"{name}{values}{record.epoch:>9}{record.seconds:>9.0f}  {', '.join(marks)}"
        lines.append(row.rstrip())
    return "\n".join(lines)


def _ranked(records: Sequence[TrialRecord], objective: str) -> list[TrialRecord]:
    """Best first; equal ones in the order they began; failed ones last."""
    left, ranked = list(records), []
    while (best := best_record(left, objective)) is not None:
        ranked.append(best)
        left.remove(best)
    return ranked + left


def verdict(records: Sequence[TrialRecord], objective: str) -> str:
    """What the search found against 1:1:1, and how far to trust it, in words."""
    best, baseline = best_record(records, objective), find_baseline(records)
    assert best is not None
    if baseline is None or baseline.state == "failed":
        return f"The baseline 1:1:1 failed, so there is nothing to compare {objective} with."
    if best.is_baseline:
        return f"No weights that were tried beat 1:1:1 by {objective} on val."
    ours, theirs = best.scores[objective], baseline.scores[objective]
    return (
        f"{short(best.weights)}: {objective} {ours:.4f} on val against {theirs:.4f} for 1:1:1 "
        f"({ours - theirs:+.4f}). Every trial ran with one seed, and the winner was picked on the "
        "pictures it is scored on: the difference can be within the spread between seeds. Train "
        "both with other seeds before relying on it."
    )


def summary(records: Sequence[TrialRecord], objective: str, **about: Any) -> dict[str, Any]:
    """The content of best-weights.json: `weights`, which commands read, and all trials."""
    best, baseline = best_record(records, objective), find_baseline(records)
    assert best is not None
    return {
        "weights": asdict(best.weights),
        "objective": objective,
        **about,
        "verdict": verdict(records, objective),
        "winner": asdict(best),
        "baseline": asdict(baseline) if baseline else None,
        "trials": [asdict(record) for record in records],
    }
