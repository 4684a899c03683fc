"""The result of a search: a verdict, tables, figures, and the content of best-weights.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, cast
from warnings import catch_warnings, simplefilter

import optuna
import pandas as pd
from optuna.distributions import FloatDistribution

from emlnet.losses.weighted import LossWeights
from emlnet.metrics.saliency_metrics import BY_NAME
from pipelines.evaluation import plots
from pipelines.evaluation.html_report import write_page
from tune.objective import HELD_OUT
from tune.records import Choice, TrialRecord, count, rank
from tune.space import BASELINE_WEIGHTS, FACTORS, shares, short
from tune.trial import OpenSearch
from tune.tuner import create_study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("ig", "nss", "cc", "kl", "sim", "auc")
MIN_TRIALS = 8
"""The figure of importance needs at least this many trials."""


Comparison = dict[str, pd.DataFrame]
"""The winner against 1:1:1, trained in full with the same seeds, on the held-out half of val.

`winner`, `equal`: a row per seed and a column per metric.  `gain`: the winner's gain, paired by
seed, so that a seed's effect on both cancels.  `untrained`: only in searches of a decoder: one row,
its scores before training.
"""


def compare(finals: Sequence[TrialRecord], winner: TrialRecord) -> Comparison:
    """Compare the final runs on the seeds that both sides have; empty without such seeds."""
    done = [record for record in finals if record.state == "finished"]
    ours = _held_out({r.seed: r.scores for r in done if r.point == winner.point})
    theirs = _held_out({r.seed: r.scores for r in done if r.is_baseline})
    seeds = ours.index.intersection(theirs.index)
    if seeds.empty:
        return {}
    ours, theirs = ours.loc[seeds], theirs.loc[seeds]
    signs = pd.Series({name: BY_NAME[name].sign for name in COLUMNS})
    comparison = {"winner": ours, "equal": theirs, "gain": (ours - theirs) * signs}
    for record in done:
        if record.is_baseline and record.history[0]["epoch"] == 0:
            comparison["untrained"] = _held_out({0: record.history[0]["scores"]})
    return comparison


def _held_out(scores: Mapping[int, Mapping[str, float]]) -> pd.DataFrame:
    """Return the scores on the held-out half, a row for each seed."""
    names = [f"{HELD_OUT}{name}" for name in COLUMNS]
    frame = pd.DataFrame(list(scores.values()), list(scores), names, dtype=float)
    return frame.set_axis(COLUMNS, axis="columns")


def format_mean_std(scores: pd.DataFrame, sign: str = "") -> pd.Series[str]:
    """Format each metric's mean and, for several seeds, standard deviation."""
    means = scores.mean().map(f"{{:{sign}.4f}}".format)
    return means if len(scores) == 1 else means + scores.std().map(" ± {:.4f}".format)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The result of a search, with its texts, tables and figures."""

    search: OpenSearch
    trials: Sequence[TrialRecord]
    finals: Sequence[TrialRecord]
    choice: Choice

    @property
    def objectives(self) -> tuple[str, ...]:
        """The metrics that trials are compared by; the first one ranks them."""
        return self.search.command.search.objectives

    @cached_property
    def comparison(self) -> Comparison:
        """The winner against 1:1:1, trained in full; empty if there is nothing to compare."""
        return compare(self.finals, self.choice.winner)

    @property
    def is_lost(self) -> bool:
        """Whether 1:1:1 beats the winner in the final runs, by every objective."""
        if not self.comparison:
            return False
        return bool((self.comparison["gain"][list(self.objectives)].mean() < 0).all())

    @property
    def verdict(self) -> str:
        """The winner against 1:1:1 in words, and how far to trust it."""
        choice, final = self.choice, self.comparison
        if choice.winner.is_baseline:
            return f"No other weights beat 1:1:1, which is {choice.reason}."
        text = f"{choice.winner.name} is {choice.reason}."
        if not final:
            text += (
                " It was trained with one seed, and chosen by the same pictures that score it, so "
                "its gain over 1:1:1 may be smaller than the spread between seeds; --final-seeds "
                "compares both on other pictures."
            )
        else:
            gains = format_mean_std(final["gain"], "+")[list(self.objectives)]
            text += (
                f" Trained in full with {count(len(final['gain']), 'seed')} and scored on the half "
                "of val that no trial was tuned on, its gain over 1:1:1 is "
                f"{', '.join(f'{name} {gain}' for name, gain in gains.items())}."
            )
            if self.is_lost:
                text += " The winner of the search lost there, so 1:1:1 is kept."
        if failed := [record for record in self.finals if record.state == "failed"]:
            text += (
                f" {len(failed)} final runs failed, the first because: {failed[0].reason}. Remove "
                "the cause and run the command with --retry-failed."
            )
        return text

    @cached_property
    def content(self) -> dict[str, Any]:
        """The content of best-weights.json: `weights`, which commands read, and all trials."""
        command, context, winner = self.search.command, self.search.context, self.choice.winner
        return {
            "weights": asdict(BASELINE_WEIGHTS if self.is_lost else winner.weights),
            "other": {} if self.is_lost else winner.other,
            "objectives": list(self.objectives),
            "subject": self.search.job.title,
            "seed": command.seed,
            "data": {"name": context.manifest.name, "digest": context.manifest.digest},
            "run_id": context.parent,
            "asked": command.search.lengths,
            "cost": {
                "trial_epochs": sum(record.num_trained for record in self.trials),
                "full_epochs": command.search.num_trials * command.plan.epochs,
                "seconds": sum(record.seconds for record in self.trials),
            },
            "verdict": self.verdict,
            "winner": asdict(winner),
            "front": [asdict(record.weights) for record in self.choice.front],
            "final": {name: rows.to_dict("index") for name, rows in self.comparison.items()},
            "trials": [asdict(record) for record in self.trials],
            "final_runs": [asdict(record) for record in self.finals],
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the search's MLflow run."""
        values = {f"best_{name}": value for name, value in self.choice.winner.scores.items()}
        if final := self.comparison:
            values |= {f"final_{name}": mean for name, mean in final["winner"].mean().items()}
            values |= {f"final_gain_{name}": mean for name, mean in final["gain"].mean().items()}
        return values

    @property
    def any_stopped(self) -> bool:
        """Whether a trial was stopped early."""
        return any(record.state == "stopped" for record in self.trials)

    @property
    def cost(self) -> str:
        """The cost of the trials in words."""
        cost = self.content["cost"]
        return (
            f"{count(cost['trial_epochs'], 'epoch')} of trials in "
            f"{timedelta(seconds=round(cost['seconds']))} of training; all trials in full would "
            f"take {count(cost['full_epochs'], 'epoch')}"
        )

    def trial_table(self) -> pd.DataFrame:
        """Return a row for each trial: the best first, the failed ones last."""
        ranked = rank(self.trials, self.objectives[0])
        rows = [*ranked, *(record for record in self.trials if record not in ranked)]
        columns = dict.fromkeys((*self.objectives, *COLUMNS))
        return pd.DataFrame(
            [
                {"": self.notes(r)}
                | {c: f"{r.scores[c]:.4f}" if r.scores else "" for c in columns}
                | {"epochs": str(r.num_trained), "seconds": f"{r.seconds:.0f}"}
                for r in rows
            ],
            pd.Index([r.name for r in rows], name="trials, on the half of val they are tuned on"),
        )

    def notes(self, record: TrialRecord) -> str:
        """Return a trial's notes for tables."""
        choice = self.choice
        found = {
            "winner": record == choice.winner,
            "front": record in choice.front and record != choice.winner,
            "baseline": record.is_baseline,
            "stopped early": record.state == "stopped",
            f"failed: {shorten(record.reason, 60, placeholder=' ...')}": bool(record.reason),
        }
        return ", ".join(note for note, holds in found.items() if holds)

    def final_table(self) -> pd.DataFrame:
        """Return the winner against 1:1:1: mean and, for several seeds, standard deviation."""
        names = {
            "winner": f"{self.choice.winner.name} (winner)",
            "equal": f"{short(BASELINE_WEIGHTS)} (baseline)",
            "gain": "gain",
            "untrained": "untrained: the encoders' average",
        }
        rows = {
            names[kind]: format_mean_std(scores, "+" if kind == "gain" else "")
            for kind, scores in self.comparison.items()
        }
        return pd.DataFrame(rows).T.rename_axis("held-out half of val")

    def text_tables(self) -> str:
        """Return the tables as text."""
        tables = [self.final_table(), self.trial_table()]
        return "\n\n".join(
            f"{table.index.name}:\n{table.rename_axis(None).to_string()}"
            for table in tables
            if len(table)
        )

    def closing_lines(self, best: Path, page: Path) -> str:
        """Return the verdict, the cost and the paths of the results."""
        content = self.content
        lines = [
            self.verdict,
            self.cost,
            *(f"the winner's {name} is {value:g}" for name, value in content["other"].items()),
            f"best weights: {best}, for --loss-weights @{best} or @{content['run_id']}",
            f"page: {page}",
        ]
        return "\n".join(lines)

    def write_page(self, path: Path) -> None:
        """Write the report as one self-contained HTML file, atomically."""
        states = [record.state for record in self.trials]
        content, data = self.content, self.search.context.manifest
        write_page(
            path,
            Path(__file__).with_name("search.html"),
            title=f"Loss weights of {content['subject']} on {data.name}",
            verdict=self.verdict,
            weights=short(LossWeights(**content["weights"])),
            facts={
                "data": f"{data.name}, {data.digest[:16]}",
                "objective": ", ".join(map(label, self.objectives)),
                "trials": f"{len(states)}: {states.count('finished')} finished, "
                f"{states.count('stopped')} stopped early, {states.count('failed')} failed",
                "cost": self.cost,
                "seed": content["seed"],
                "MLflow run": content["run_id"],
            },
            any_stopped=self.any_stopped,
            num_seeds=len(self.comparison["gain"]) if self.comparison else 0,
            final=self.final_table(),
            trials=self.trial_table(),
            winner=self.choice.winner.name,
            figures=self.figures(),
            min_trials=MIN_TRIALS,
        )

    def figures(self) -> dict[str, str]:
        """Return the figures that these trials allow, each as an SVG element by its title."""
        import matplotlib.pyplot as plt
        from optuna.visualization import matplotlib as optuna_plots

        study, names = self.study(), [label(name) for name in self.objectives]
        differ = len({trial.values[0] for trial in study.trials}) > 1
        target: dict[str, Any] = {"target_name": names[0]}
        if len(names) > 1:
            target["target"] = lambda trial: trial.values[0]
        found: dict[str, Axes] = {}
        # Optuna changes matplotlib's style, and warns that its figures may change.
        with plt.rc_context(), catch_warnings():
            simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if differ:  # First: the other figures set a style with grid lines.
                found["Weights and score"] = optuna_plots.plot_parallel_coordinate(study, **target)
            if len(names) > 1:
                found["Pareto front"] = optuna_plots.plot_pareto_front(study, target_names=names)
            if any(record.num_trained > 1 for record in self.trials):
                curves = optuna_plots.plot_intermediate_values(study)
                unit = BY_NAME[self.objectives[0]].unit
                curves.set(xlabel="epoch", ylabel=", ".join(filter(None, [names[0], unit])))
                curves.locator_params(axis="x", integer=True)
                if legend := curves.get_legend():
                    legend.remove()
                found["Learning curves"] = curves
            if differ and len(study.trials) >= MIN_TRIALS:
                importance = optuna.importance.FanovaImportanceEvaluator(seed=0)
                found["Importance"] = optuna_plots.plot_param_importances(
                    study, evaluator=importance, **target
                )
            return {title: _svg(axes) for title, axes in found.items()}

    def study(self) -> optuna.Study:
        """Return an Optuna study of the scored trials, over shares and factors, for its plots."""
        study = create_study(self.objectives)
        for record in rank(self.trials, self.objectives[0]):
            weights = shares(asdict(record.weights))
            ranges = dict.fromkeys(self.search.command.search.space.terms, (0.0, 1.0))
            ranges |= {name: FACTORS[name] for name in record.other}
            curve = {r["epoch"]: r["scores"][self.objectives[0]] for r in record.history}
            study.add_trial(
                optuna.create_trial(
                    params={name: weights.get(name, record.point[name]) for name in ranges},
                    distributions={name: FloatDistribution(*ends) for name, ends in ranges.items()},
                    values=[record.scores[name] for name in self.objectives],
                    intermediate_values=curve,
                )
            )
        return study


def label(metric: str) -> str:
    """Return a metric's label with an arrow to the better side."""
    return plots.label(f"tuebingen_{metric}")


def _svg(axes: Axes) -> str:
    """Return a figure without its title as an SVG element; close it."""
    import matplotlib.pyplot as plt

    figure = cast("Figure", axes.figure)
    for side in ("left", "center"):
        axes.set_title("", loc=side)
    plt.close(figure)
    return plots.svg(figure, bbox_inches="tight")
