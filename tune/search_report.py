"""What a search found: a verdict, tables, figures, and the content of best-weights.json."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import jinja2
import optuna
import pandas as pd
from optuna.distributions import FloatDistribution

from emlnet.atomic_files import write_text
from emlnet.losses.weighted import LossWeights
from emlnet.metrics.saliency_metrics import BY_NAME
from tune.objective import HELD_OUT, gain
from tune.records import Choice, TrialRecord, find_baseline, rank
from tune.space import EQUAL, FACTORS, shares, short
from tune.tuner import create_study, duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("ig", "nss", "cc", "kl", "sim", "auc")
MIN_TRIALS = 8
"""With fewer, an importance says nothing."""

Spread = tuple[float, float | None]
"""Mean and standard deviation over seeds; None of a single seed."""


@dataclass(frozen=True, kw_only=True)
class FullComparison:
    """The winner against 1:1:1, trained in full with the same seeds, on the held-out half of val.

    winner, equal: by metric.  gain: by how much the winner is better, seed by seed, so that what a
    seed does to both cancels.  untrained: scores of a decoder before any training.
    """

    num_seeds: int
    winner: dict[str, Spread]
    equal: dict[str, Spread]
    gain: dict[str, Spread]
    untrained: dict[str, float] | None = None


def compare(finals: Sequence[TrialRecord], winner: TrialRecord) -> FullComparison | None:
    """Compare the final runs of the seeds that both sides have; None when there are none."""
    done = [record for record in finals if record.state == "finished"]
    ours = {r.seed: _held_out(r.scores) for r in done if r.point == winner.point}
    theirs = {r.seed: r for r in done if r.is_baseline}
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    pairs = [(ours[seed], _held_out(theirs[seed].scores)) for seed in seeds]
    untrained = [report for report in theirs[seeds[0]].history if report["epoch"] == 0]
    return FullComparison(
        num_seeds=len(seeds),
        winner=_spreads([own for own, _ in pairs]),
        equal=_spreads([other for _, other in pairs]),
        gain=_spreads([{m: gain(m, own, other) for m in own} for own, other in pairs]),
        untrained=_held_out(untrained[0]["scores"]) if untrained else None,
    )


def _held_out(scores: Mapping[str, float]) -> dict[str, float]:
    return {k.removeprefix(HELD_OUT): v for k, v in scores.items() if k.startswith(HELD_OUT)}


def _spreads(scores: Sequence[dict[str, float]]) -> dict[str, Spread]:
    values = {metric: [each[metric] for each in scores] for metric in scores[0]}
    return {
        metric: (statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else None)
        for metric, v in values.items()
    }


def is_lost(objectives: Sequence[str], comparison: FullComparison | None) -> bool:
    """Whether 1:1:1 is better than the winner in the final runs, by every objective."""
    return comparison is not None and all(comparison.gain[name][0] < 0 for name in objectives)


def verdict(
    choice: Choice,
    objectives: Sequence[str],
    comparison: FullComparison | None,
    failed: Sequence[TrialRecord] = (),
) -> str:
    """Say what was found against 1:1:1, and how far to trust it.  failed: final runs."""
    if choice.winner.is_baseline:
        return f"No weights that were tried beat 1:1:1: it is {choice.reason}."
    text = f"{choice.winner.name} is {choice.reason}."
    if comparison is None:
        text += (
            " It was trained with one seed and picked on the pictures that it is scored on, so its "
            "lead over 1:1:1 may be within the spread between seeds; --final-seeds compares both."
        )
    else:
        gains = [f"{name} {_spread(comparison.gain[name], '+')}" for name in objectives]
        text += (
            f" Trained in full with {count(comparison.num_seeds)} and scored on the half of val "
            f"that no trial was tuned on, its gain over 1:1:1 is {', '.join(gains)}."
        )
        if is_lost(objectives, comparison):
            text += " The winner of the search lost there, so 1:1:1 is kept."
    if failed:
        text += (
            f" {len(failed)} final runs failed, the first because: {failed[0].reason}. When the "
            "cause is gone, --retry-failed runs them again."
        )
    return text


def _spread(value: Spread, sign: str = "") -> str:
    mean, deviation = value
    return f"{mean:{sign}.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def count(seeds: int | Sized) -> str:
    """Return `1 seed` or `3 seeds`."""
    number = seeds if isinstance(seeds, int) else len(seeds)
    return f"{number} seed{'s' * (number != 1)}"


def summarise(
    trials: Sequence[TrialRecord],
    finals: Sequence[TrialRecord],
    choice: Choice,
    objectives: Sequence[str],
    **about: Any,
) -> dict[str, Any]:
    """Return the content of best-weights.json: `weights`, which commands read, and all trials."""
    comparison, baseline = compare(finals, choice.winner), find_baseline(trials)
    lost = is_lost(objectives, comparison)
    failed = [record for record in finals if record.state == "failed"]
    return {
        "weights": asdict(EQUAL if lost else choice.winner.weights),
        "other": {} if lost else choice.winner.other,
        "objectives": list(objectives),
        **about,
        "verdict": verdict(choice, objectives, comparison, failed),
        "winner": asdict(choice.winner),
        "baseline": asdict(baseline) if baseline else None,
        "front": [asdict(record.weights) for record in choice.front],
        "final": asdict(comparison) if comparison else None,
        "trials": [asdict(record) for record in trials],
        "final_runs": [asdict(record) for record in finals],
    }


def trial_table(
    trials: Sequence[TrialRecord], choice: Choice, objectives: Sequence[str]
) -> pd.DataFrame:
    """Return a row for each trial: the best first, the failed ones last."""
    ranked = rank(trials, objectives[0])
    rows = [*ranked, *(record for record in trials if record not in ranked)]
    columns = (*objectives, *(c for c in COLUMNS if c not in objectives))
    return pd.DataFrame(
        [
            {c: f"{r.scores[c]:.4f}" if r.scores else "" for c in columns}
            | {"epochs": r.num_trained, "seconds": f"{r.seconds:.0f}", "": notes(r, choice)}
            for r in rows
        ],
        pd.Index([record.name for record in rows], name="trials, on the other half of val"),
    )


def notes(record: TrialRecord, choice: Choice) -> str:
    """Return what a table says of a trial besides its scores."""
    found = {
        "winner": record == choice.winner,
        "front": len(choice.front) > 1 and record in choice.front and record != choice.winner,
        "baseline": record.is_baseline,
        "stopped early": record.state == "stopped",
        f"failed: {shorten(record.reason, 100, placeholder=' ...')}": bool(record.reason),
    }
    return ", ".join(note for note, holds in found.items() if holds)


def final_table(choice: Choice, comparison: FullComparison) -> pd.DataFrame:
    """Return the winner against 1:1:1: mean and, of several seeds, standard deviation."""

    rows = {
        f"{choice.winner.name} (winner)": {c: _spread(comparison.winner[c]) for c in COLUMNS},
        f"{short(EQUAL)} (baseline)": {c: _spread(comparison.equal[c]) for c in COLUMNS},
        "gain": {c: _spread(comparison.gain[c], "+") for c in COLUMNS},
    }
    if comparison.untrained:
        untrained = {c: f"{comparison.untrained[c]:.4f}" for c in COLUMNS}
        rows["untrained: the encoders' average"] = untrained
    return pd.DataFrame(rows.values(), pd.Index(rows, name="held-out half of val"))


def text_tables(
    trials: Sequence[TrialRecord],
    choice: Choice,
    objectives: Sequence[str],
    comparison: FullComparison | None,
) -> str:
    """Return the tables as text."""
    tables = [final_table(choice, comparison)] if comparison else []
    tables.append(trial_table(trials, choice, objectives))
    return "\n\n".join(
        f"{table.index.name}:\n{table.rename_axis(None).to_string()}" for table in tables
    )


def closing_lines(content: Mapping[str, Any], best: Path, page: Path) -> str:
    """Return the verdict, the cost, and where to find what."""
    cost = content["cost"]
    lines = [
        content["verdict"],
        f"{cost['trial_epochs']} epochs of trials, {duration(cost['seconds'])} of training; all "
        f"trials in full are {cost['full_epochs']}",
        *(f"the winner's {name} is {value:g}" for name, value in content["other"].items()),
        f"best weights: {best}, for --loss-weights @{best} or @{content['run_id']}",
        f"page: {page}",
    ]
    return "\n".join(lines)


def write_page(
    path: Path,
    trials: Sequence[TrialRecord],
    choice: Choice,
    comparison: FullComparison | None,
    content: Mapping[str, Any],
    terms: Sequence[str],
) -> None:
    """Write the search as one HTML file that needs nothing else, whole or not at all."""
    objectives, cost = content["objectives"], content["cost"]
    states = [record.state for record in trials]
    facts = {
        "data": f"{content['data']['name']}, {content['data']['digest'][:16]}",
        "objective": ", ".join(label(name) for name in objectives),
        "trials": f"{len(trials)}: {states.count('finished')} finished, "
        f"{states.count('stopped')} stopped early, {states.count('failed')} failed",
        "cost": f"{cost['trial_epochs']} epochs of trials, {duration(cost['seconds'])} of "
        f"training; all trials in full are {cost['full_epochs']} epochs",
        "seed": content["seed"],
        "MLflow run": content["run_id"],
    }
    template = jinja2.Environment(autoescape=True).from_string(
        Path(__file__).with_name("page.html").read_text()
    )
    text = template.render(
        title=f"Loss weights of {content['subject']} on {content['data']['name']}",
        content=content,
        weights=short(LossWeights(**content["weights"])),
        facts=facts,
        stopped="stopped" in states,
        seeds=count(comparison.num_seeds) if comparison else "",
        final=_html(final_table(choice, comparison)) if comparison else "",
        trials=_html(trial_table(trials, choice, objectives)),
        figures=figures(trials, objectives, terms),
    )
    write_text(path, text)


def _html(table: pd.DataFrame) -> str:
    return str(table.rename_axis(None).to_html(border=0))


def label(metric: str, unit: bool = False) -> str:
    """Return what a metric is called, with an arrow towards the better side."""
    row = BY_NAME[metric]
    return f"{row.label} {row.arrow}" + (f", {row.unit}" if unit and row.unit else "")


def figures(
    trials: Sequence[TrialRecord], objectives: Sequence[str], terms: Sequence[str]
) -> list[dict[str, str]]:
    """Return each figure's title, caption and SVG, or instead of that why it is missing."""
    from optuna.visualization import matplotlib as plots

    study = study_of(trials, objectives, terms)
    names = [label(name) for name in objectives]
    scores = [trial.values[0] for trial in study.trials]
    any_stopped = any(record.state == "stopped" for record in trials)
    fanova = optuna.importance.FanovaImportanceEvaluator(seed=0)
    target = None if len(objectives) == 1 else lambda trial: trial.values[0]
    wanted: list[tuple[str, str, str, Callable[[], Axes]]] = [
        (
            "Pareto front",
            "Each trial by the objectives.",
            "" if len(objectives) > 1 else "a search by one objective has no front",
            lambda: plots.plot_pareto_front(study, target_names=names),
        ),
        (
            "Weights and score",
            "A line for each trial: its score, each term's share of the sum of the weights, and "
            "what else was searched.",
            "" if len(set(scores)) > 1 else "it takes trials with different scores",
            lambda: plots.plot_parallel_coordinate(study, target=target, target_name=names[0]),
        ),
        (
            "Learning curves",
            "Each trial's score after each epoch."
            + " Short lines are trials that were stopped early." * any_stopped,
            "" if max(r.num_trained for r in trials) > 1 else "every trial has a single epoch",
            lambda: _name_axes(plots.plot_intermediate_values(study), label(objectives[0], True)),
        ),
        (
            "Importance",
            "The share of the score's variance that each number explains (functional ANOVA). "
            "Shares of the weights sum to 1, so they explain some of it together.",
            ""
            if len(set(scores)) > 1 and len(scores) >= MIN_TRIALS
            else f"it takes {MIN_TRIALS} trials with different scores",
            lambda: plots.plot_param_importances(
                study,
                evaluator=fanova,
                target=target,
                target_name=names[0],
            ),
        ),
    ]
    return [
        {"title": title, "caption": caption, "missing": why, "svg": "" if why else _svg(draw)}
        for title, caption, why, draw in wanted
    ]


def study_of(
    trials: Sequence[TrialRecord], objectives: Sequence[str], terms: Sequence[str]
) -> optuna.Study:
    """Return a study of the trials with scores, over the shares of the terms and the factors."""
    study = create_study(objectives)
    for record in rank(trials, objectives[0]):
        weights = shares(asdict(record.weights))
        ranges = dict.fromkeys(terms, (0.0, 1.0)) | {name: FACTORS[name] for name in record.other}
        curve = {r["epoch"]: r["scores"][objectives[0]] for r in record.history if r["epoch"]}
        study.add_trial(
            optuna.create_trial(
                params={name: weights.get(name, record.point[name]) for name in ranges},
                distributions={name: FloatDistribution(*ends) for name, ends in ranges.items()},
                values=[record.scores[name] for name in objectives],
                intermediate_values=curve,
            )
        )
    return study


def _name_axes(axes: Axes, score: str) -> Axes:
    """Name the axes of learning curves, and drop the legend of trial numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", ylabel=score)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if legend := axes.get_legend():
        legend.remove()
    return axes


def _svg(draw: Callable[[], Axes]) -> str:
    """Draw a figure as an element of a page, without its title."""
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    # Optuna changes matplotlib's style, and warns that its figures may change.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "search"}), catch_warnings():
        simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        axes = draw()
        figure: Any = axes.figure
        for side in ("left", "center"):
            axes.set_title("", loc=side)
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
