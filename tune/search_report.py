"""What a search found, in words and tables, and what best-weights.json holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from textwrap import shorten
from typing import Any

from tune.objective import HELD_OUT, gain
from tune.pareto import Choice, name, rank
from tune.results import TrialRecord, find_baseline
from tune.space import EQUAL, short

COLUMNS = ("ig", "nss", "cc", "kl", "sim", "auc")

Spread = tuple[float, float]
"""Mean and standard deviation over seeds."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The winner against 1:1:1, trained in full with the same seeds, on the held-out half of val.

    winner, equal: by metric.  gain: how much better the winner is, seed by seed, so that what a
    seed does to both (new weights, order and flips of the images) cancels.  untrained: of a decoder
    before any training.
    """

    num_seeds: int
    winner: dict[str, Spread]
    equal: dict[str, Spread]
    gain: dict[str, Spread]
    untrained: dict[str, float] | None = None


def compare(finals: Sequence[TrialRecord], winner: TrialRecord) -> Comparison | None:
    """The final runs of the winner and of 1:1:1, of the seeds that both have; None without any."""
    done = [record for record in finals if record.state == "finished"]
    ours = {r.spec.seed: r for r in done if r.spec.point == winner.spec.point}
    theirs = {r.spec.seed: r for r in done if r.is_baseline}
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    pairs = [(_held_out(ours[seed].scores), _held_out(theirs[seed].scores)) for seed in seeds]
    untrained = [report for report in theirs[seeds[0]].history if report["epoch"] == 0]
    return Comparison(
        num_seeds=len(seeds),
        winner=_spreads([own for own, _ in pairs]),
        equal=_spreads([other for _, other in pairs]),
        gain=_spreads([{m: gain(m, own, other) for m in own} for own, other in pairs]),
        untrained=_held_out(untrained[0]["scores"]) if untrained else None,
    )


def _held_out(scores: dict[str, float]) -> dict[str, float]:
    return {k.removeprefix(HELD_OUT): v for k, v in scores.items() if k.startswith(HELD_OUT)}


def _spreads(scores: Sequence[dict[str, float]]) -> dict[str, Spread]:
    values = {metric: [each[metric] for each in scores] for metric in scores[0]}
    return {
        metric: (statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else 0.0)
        for metric, v in values.items()
    }


def is_lost(objectives: Sequence[str], final: Comparison | None) -> bool:
    """Whether the final runs say that 1:1:1 is better than the winner, in all that is sought."""
    return final is not None and all(final.gain[name][0] < 0 for name in objectives)


def verdict(
    records: Sequence[TrialRecord],
    choice: Choice,
    objectives: Sequence[str],
    final: Comparison | None,
    failed: Sequence[TrialRecord] = (),
) -> str:
    """What was found against 1:1:1, and how far to trust it, in words.  failed: final runs."""
    text = _verdict(records, choice, objectives, final)
    if failed:
        text += (
            f" Final runs that failed: {len(failed)}, the first by {failed[0].cause}. When the "
            "cause is gone, --retry-failed runs them again."
        )
    return text


def _verdict(
    records: Sequence[TrialRecord],
    choice: Choice,
    objectives: Sequence[str],
    final: Comparison | None,
) -> str:
    winner = choice.winner
    if winner.is_baseline:
        return f"No weights that were tried beat 1:1:1: it is {choice.reason}."
    picked = f"{name(winner)} is {choice.reason}"
    if final is None:
        baseline, first = find_baseline(records), objectives[0]
        against = ""
        if baseline is not None and baseline.scores:
            against = (
                f": {first} {winner.scores[first]:.4f} against {baseline.scores[first]:.4f} for "
                "1:1:1"
            )
        return (
            f"{picked}{against}. Every trial ran with one seed, and the winner was picked on the "
            "pictures that it is scored on: the difference can be within the spread between seeds."
        )
    told = [_told(metric, final) for metric in dict.fromkeys([*objectives, "ig", "kl", "nss"])]
    seeds = f"{final.num_seeds} seed{'s' * (final.num_seeds > 1)}"
    text = (
        f"{picked}. Trained in full with {seeds} and scored on the half of val that no trial "
        f"was tuned on, against 1:1:1: {'; '.join(told)}."
    )
    if is_lost(objectives, final):
        text += " The winner of the search lost there, so 1:1:1 is kept."
    elif final.num_seeds == 1:
        text += " One seed shows no spread."
    return text


def _told(metric: str, final: Comparison) -> str:
    difference, spread = final.gain[metric]
    values = f"{metric} {final.winner[metric][0]:.4f} against {final.equal[metric][0]:.4f}"
    if final.num_seeds == 1:
        return values
    values += f", a gain of {difference:+.4f} ± {spread:.4f}"
    if abs(difference) <= spread:
        return f"{values}, within the spread between seeds"
    return f"{values}, {'better' if difference > 0 else 'worse'} beyond the spread"


def _spread(value: Spread) -> str:
    return f"{value[0]:.4f} ± {value[1]:.4f}"


def table(records: Sequence[TrialRecord], choice: Choice | None, objectives: Sequence[str]) -> str:
    """The trials as a table of text, a row each: best first, failed ones last."""
    columns = (*objectives, *(c for c in COLUMNS if c not in objectives))
    width = max(7, *(len(name(record)) for record in records))
    lines = [f"{'weights':<{width}}" + "".join(f"{c:>9}" for c in columns) + "  epochs  seconds"]
    ranked = rank(records, objectives[0])
    for record in [*ranked, *(r for r in records if r not in ranked)]:
        row = f"{name(record):<{width}}"
        if record.scores:
            row += "".join(f"{record.scores[column]:>9.4f}" for column in columns)
            row += f"{record.num_trained:>8}{record.seconds:>9.0f}"
        notes = marks(record, choice)
        if record.cause:
            notes.append(f"failed: {shorten(record.cause, 100, placeholder=' ...')}")
        lines.append(f"{row}  {', '.join(notes)}".rstrip())
    return "\n".join(lines)


def marks(record: TrialRecord, choice: Choice | None) -> list[str]:
    """What is to be said of a trial in a table."""
    notes = []
    if choice is not None and record.spec == choice.winner.spec:
        notes.append("winner")
    elif choice is not None and len(choice.front) > 1 and record in choice.front:
        notes.append("front")
    if record.is_baseline:
        notes.append("baseline")
    if record.state == "stopped":
        notes.append("stopped early")
    return notes


def final_rows(choice: Choice, final: Comparison) -> list[tuple[str, dict[str, str]]]:
    """The rows of the final table: a name, and by metric mean and standard deviation."""
    rows = [
        (f"{name(choice.winner)} (winner)", final.winner),
        (f"{short(EQUAL)} (baseline)", final.equal),
    ]
    told = [(row, {c: _spread(side[c]) for c in COLUMNS}) for row, side in rows]
    told.append(("gain", {c: f"{final.gain[c][0]:+.4f} ± {final.gain[c][1]:.4f}" for c in COLUMNS}))
    if final.untrained:
        untrained = {c: f"{final.untrained[c]:.4f}" for c in COLUMNS}
        told.append(("untrained: the encoders' average", untrained))
    return told


def final_table(choice: Choice, final: Comparison) -> str:
    """The winner against 1:1:1 as a table of text."""
    rows = final_rows(choice, final)
    width = max(len(row) for row, _ in rows)
    lines = [f"{'held-out half of val':<{width}}" + "".join(f"{c:>19}" for c in COLUMNS)]
    lines += [f"{row:<{width}}" + "".join(f"{v[c]:>19}" for c in COLUMNS) for row, v in rows]
    return "\n".join(lines)


def summary(
    records: Sequence[TrialRecord],
    finals: Sequence[TrialRecord],
    choice: Choice,
    objectives: Sequence[str],
    **about: Any,
) -> dict[str, Any]:
    """The content of best-weights.json: `weights`, which commands read, and all trials."""
    final, baseline = compare(finals, choice.winner), find_baseline(records)
    lost = is_lost(objectives, final)
    failed = [record for record in finals if record.state == "failed"]
    return {
        "weights": asdict(EQUAL if lost else choice.winner.weights),
        "other": {} if lost else choice.winner.other,
        "objectives": list(objectives),
        **about,
        "verdict": verdict(records, choice, objectives, final, failed),
        "winner": asdict(choice.winner),
        "baseline": asdict(baseline) if baseline else None,
        "front": [record.spec.key for record in choice.front],
        "final": asdict(final) if final else None,
        "trials": [asdict(record) for record in records],
        "final_runs": [asdict(record) for record in finals],
    }
