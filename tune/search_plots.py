"""Figures of a search: its front, its trials side by side, what matters, how they learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emlnet.metrics.saliency_metrics import BY_NAME
from tune.importance import common_epoch, coordinates
from tune.objective import direction
from tune.pareto import Choice
from tune.results import TrialRecord, scored

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours; marks differ too, so nothing hangs on colour alone.
WINNER, BASELINE, STOPPED, FINISHED = "#d55e00", "#000000", "#999999", "#0072b2"
SIZE = (6.4, 4.6)


def label(metric: str, unit: bool = True) -> str:
    """How a metric is called, with an arrow to the better side."""
    row = BY_NAME[metric]
    known = f", {row.unit}" if unit and row.unit else ""
    return f"{row.label} {row.arrow}{known}"


def axes_of(objectives: Sequence[str]) -> tuple[str, str]:
    """The two metrics that the front is drawn over."""
    others = [name for name in ("nss", "kl", "ig") if name not in objectives]
    first, second = [*objectives, *others][:2]
    return first, second


def pareto(records: Sequence[TrialRecord], choice: Choice, objectives: Sequence[str]) -> Figure:
    """Every trial by two metrics, the front of a search by several as a line."""
    figure, axis = _figure()
    across, up = axes_of(objectives)
    kinds = (
        ("stopped early", [r for r in scored(records) if r.state == "stopped"], STOPPED, "o", 22),
        ("finished", [r for r in records if r.state == "finished"], FINISHED, "o", 34),
        ("1:1:1", [r for r in scored(records) if r.is_baseline], BASELINE, "s", 70),
        ("winner", [choice.winner], WINNER, "*", 190),
    )
    for order, (name, chosen, colour, mark, size) in enumerate(kinds):
        if chosen:
            points = np.array([[r.scores[across], r.scores[up]] for r in chosen])
            face = "none" if name == "stopped early" else colour
            axis.scatter(
                *points.T, s=size, marker=mark, c=face, edgecolors=colour, label=name, zorder=order
            )
    if len(choice.front) > 1:
        points = np.array([[r.scores[across], r.scores[up]] for r in choice.front])
        axis.plot(*points[points[:, 0].argsort()].T, color=FINISHED, linewidth=1, label="front")
    axis.set_xlabel(label(across))
    axis.set_ylabel(label(up))
    axis.legend(frameon=False, fontsize=9)
    return figure


def parallel(
    records: Sequence[TrialRecord], choice: Choice, objectives: Sequence[str], terms: Sequence[str]
) -> Figure:
    """A line for each trial over the shares of the terms, the factors and the objectives."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, axis = _figure()
    shown = sorted(scored(records), key=lambda r: (r.spec == choice.winner.spec, r.is_baseline))
    rows = [{**coordinates(r, terms), **{f"_{o}": r.scores[o] for o in objectives}} for r in shown]
    names = list(rows[0])
    values = np.array([[row[name] for name in names] for row in rows])
    is_share = np.array([name in terms for name in names])
    low, high = np.where(is_share, 0.0, values.min(0)), values.max(0)
    high[is_share] = values[:, is_share].max()
    heights = (values - low) / np.where(high > low, high - low, 1.0)
    scores = values[:, names.index(f"_{objectives[0]}")]
    # A failed start can be far off: the colours span what the better nine tenths have.
    worst = np.quantile(scores, 0.1 if direction(objectives[0]) == "max" else 0.9)
    best = scores.max() if direction(objectives[0]) == "max" else scores.min()
    scale = Normalize(min(worst, best), max(worst, best) + 1e-12)
    colours = colormaps["viridis"]
    for record, line, score in zip(shown, heights, scores, strict=True):
        style: dict[str, object] = {"color": colours(scale(score)), "linewidth": 1, "alpha": 0.7}
        if record.is_baseline:
            style = {"color": BASELINE, "linewidth": 2, "linestyle": "--", "label": "1:1:1"}
        if record.spec == choice.winner.spec:
            style = {"color": WINNER, "linewidth": 3, "label": "winner"}
        axis.plot(range(len(names)), line, **style)
    for position in range(len(names)):
        axis.axvline(position, color="#444444", linewidth=0.8, zorder=0)
        for height, value, side in ((0, low[position], "top"), (1, high[position], "bottom")):
            axis.annotate(
                f"{value:.3g}",
                (position, height),
                xytext=(0, -3 if side == "top" else 3),
                textcoords="offset points",
                ha="center",
                va=side,
                fontsize=8,
            )
    titles = [label(n[1:], unit=False) if n.startswith("_") else n for n in names]
    axis.set_xticks(range(len(names)), [f"\n{title}" for title in titles])
    axis.tick_params(length=0)
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.14))
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axis, fraction=0.04, pad=0.02)
    bar.set_label(label(objectives[0], unit=False), fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def bars(importance: dict[str, float], objective: str) -> Figure:
    """The importance of each coordinate."""
    figure, axis = _figure(height=1.2 + 0.5 * len(importance))
    names = list(importance)[::-1]
    values = [importance[name] for name in names]
    axis.barh(names, values, color=FINISHED)
    for position, value in enumerate(values):
        axis.text(value, position, f" {value:.2f}", va="center", fontsize=9)
    axis.set_xlim(0, 1.12 * max(values))
    axis.set_xlabel(f"share of the variance of {BY_NAME[objective].label} that is explained")
    return figure


def learning(records: Sequence[TrialRecord], choice: Choice, objective: str) -> Figure:
    """The objective after each epoch of each trial."""
    figure, axis = _figure()
    for record in sorted(
        scored(records), key=lambda r: (r.spec == choice.winner.spec, r.is_baseline)
    ):
        trained = [report for report in record.history if report["epoch"] > 0]
        colour = STOPPED if record.state == "stopped" else FINISHED
        style: dict[str, object] = {"color": colour, "linewidth": 1, "alpha": 0.7, "markersize": 3}
        if record.is_baseline:
            style = {"color": BASELINE, "linestyle": "--", "linewidth": 2, "label": "1:1:1"}
        if record.spec == choice.winner.spec:
            style = {"color": WINNER, "linewidth": 3, "label": "winner"}
        scores = [report["scores"][objective] for report in trained]
        axis.plot([report["epoch"] for report in trained], scores, marker="o", **style)
    axis.set_xlabel(f"epoch (all trials have {common_epoch(records)})")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel(label(objective))
    axis.legend(frameon=False, fontsize=9)
    return figure


def _figure(height: float = SIZE[1]) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0], height), dpi=130, layout="constrained")
    axis = figure.subplots()
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure, axis
