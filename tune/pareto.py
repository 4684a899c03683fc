"""Which trials are worth having: the best by one objective, the front and its knee by several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tune.objective import direction, gain
from tune.results import TrialRecord, scored
from tune.space import short


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The winner of a search.  front: all that no other trial beats.  reason: in words."""

    winner: TrialRecord
    front: list[TrialRecord]
    reason: str


def rank(records: Sequence[TrialRecord], objective: str) -> list[TrialRecord]:
    """Those with scores, best first by one objective; equal ones in the order they began.

    Trials that ran to their end come before those that were stopped early, whose scores are of
    fewer epochs.
    """
    sign = 1 if direction(objective) == "min" else -1
    return sorted(scored(records), key=lambda r: (r.state == "stopped", sign * r.scores[objective]))


def front(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[TrialRecord]:
    """The trials that no other is at least as good as in each objective, and better in one.

    In the order of the first objective, best first.
    """
    ranked = rank(records, objectives[0])
    return [
        record
        for record in ranked
        if not any(_dominates(other, record, objectives) for other in ranked)
    ]


def _dominates(first: TrialRecord, second: TrialRecord, objectives: Sequence[str]) -> bool:
    gains = [gain(name, first.scores, second.scores) for name in objectives]
    return min(gains) >= 0 and max(gains) > 0


def choose(records: Sequence[TrialRecord], objectives: Sequence[str]) -> Choice | None:
    """The winner; None when no trial has scores."""
    ranked = rank(records, objectives[0])
    if not ranked:
        return None
    ranked = [record for record in ranked if record.state == "finished"] or ranked
    if len(objectives) == 1:
        best = ranked[0]
        reason = f"the best {objectives[0]} of {len(ranked)} trials"
        return Choice(winner=best, front=[best], reason=reason)
    best_ones = front(ranked, objectives)
    winner = knee(best_ones, objectives)
    others = " and ".join(objectives)
    if len(best_ones) == 1:
        reason = f"no other of {len(ranked)} trials is better in any of {others}"
    else:
        reason = (
            f"the knee of a front of {len(best_ones)} of {len(ranked)} trials: the nearest to the "
            f"best {others} that the front holds, each scaled by its range on the front"
        )
    return Choice(winner=winner, front=best_ones, reason=reason)


def knee(records: Sequence[TrialRecord], objectives: Sequence[str]) -> TrialRecord:
    """The trial of a front that is nearest to the ideal point, which has the best of each
    objective; distances in units of each objective's range on the front.
    """
    best = {n: max(gain(n, r.scores, records[0].scores) for r in records) for n in objectives}
    worst = {n: min(gain(n, r.scores, records[0].scores) for r in records) for n in objectives}

    def distance(record: TrialRecord) -> float:
        lost = [
            (best[n] - gain(n, record.scores, records[0].scores)) / (best[n] - worst[n])
            for n in objectives
            if best[n] > worst[n]
        ]
        return math.hypot(*lost)

    return min(records, key=distance)


def name(record: TrialRecord) -> str:
    """A trial in tables: its weights, and what else was searched."""
    other = [f"{key}={value:g}" for key, value in record.other.items()]
    return " ".join([short(record.weights), *other])
