"""Figures of reports as inline SVG, readable without colour vision."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emlnet.metrics.calibration import LEVELS
from emlnet.metrics.saliency_metrics import METRICS
from pipelines.evaluation import sources
from pipelines.evaluation.evaluate import COVERAGES
from pipelines.evaluation.intervals import Estimate
from pipelines.evaluation.score_table import ScoreTable
from pipelines.evaluation.sources import BASELINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart without colour vision by their lightness and by the marks.
MODEL_COLOUR, BASELINE_COLOUR = "#0072b2", "#e69f00"


def label(metric: str, rules: bool = False) -> str:
    """Return a metric's label with an arrow to the better side."""
    book = f" ({metric.partition('_')[0]})" if rules else ""
    return f"{METRICS[metric].label}{book} {METRICS[metric].arrow}"


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def boxes(table: ScoreTable, metric: str) -> str:
    """Draw a metric's values over the images, one box per row; weak baselines are left out."""
    values = {
        model: table.of(model)[metric].replace([np.inf, -np.inf], np.nan).dropna()
        for model in table.models
        if model not in (sources.UNIFORM, sources.OTHER)
    }
    values = {model: column for model, column in values.items() if len(column)}
    figure, axes = _figure(4.6, 0.7 + 0.33 * len(values))
    drawn = axes.boxplot(
        [column.to_numpy() for column in values.values()],
        orientation="horizontal",
        widths=0.6,
        patch_artist=True,
        showmeans=True,
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black"},
        medianprops={"color": "black", "linewidth": 1.5},
        flierprops={"markersize": 3, "alpha": 0.5},
    )
    for model, box in zip(values, drawn["boxes"], strict=True):
        is_baseline = model in BASELINES
        box.set_facecolor(BASELINE_COLOUR if is_baseline else MODEL_COLOUR)
        box.set_alpha(0.75)
        box.set_hatch("///" if is_baseline else "")
    axes.set_yticks(range(1, len(values) + 1), list(values))
    axes.invert_yaxis()
    axes.set_title(label(metric, rules=True), loc="left")
    return svg(figure)


def calibration(estimates: dict[str, dict[str, Estimate]], main: str) -> str | None:
    """Draw the share of fixations over the share of the density; None without a density."""
    styles = {main: ("-", "o", MODEL_COLOUR), sources.CENTRE: ("--", "s", BASELINE_COLOUR)}
    shown = {m: style for m, style in styles.items() if COVERAGES[0] in estimates.get(m, {})}
    if main not in shown:
        return None
    figure, axes = _figure(4.6, 4.2)
    axes.plot([0, 1], [0, 1], ":", color="black", label="calibrated")
    for model, (line, marker, colour) in shown.items():
        found = [estimates[model][name] for name in COVERAGES]
        means = np.array([e.mean for e in found])
        ends = np.array([[e.mean - e.low for e in found], [e.high - e.mean for e in found]])
        axes.errorbar(
            LEVELS,
            means,
            yerr=ends,
            linestyle=line,
            marker=marker,
            color=colour,
            capsize=3,
            label=model,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of the density", ylabel="share of fixations")
    axes.legend(loc="lower right")
    return svg(figure)


def svg(figure: Figure) -> str:
    """Return the figure as an SVG element."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # Text stays text; ids are the same each time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report", "hatch.linewidth": 0.6}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def gains_by_image(gains: pd.Series[float], metric: str) -> str:
    """Draw the gain of one model over another on each image, ascending."""
    figure, axes = _figure(4.6, 3.2)
    ordered = np.sort(gains.replace([np.inf, -np.inf], np.nan).dropna().to_numpy())
    better = ordered > 0
    place = np.arange(1, len(ordered) + 1)
    axes.plot(place[better], ordered[better], "o", color=MODEL_COLOUR, label="first is better")
    axes.plot(
        place[~better], ordered[~better], "s", color=BASELINE_COLOUR, label="second is better"
    )
    axes.axhline(0, color="black", linewidth=1)
    axes.set(xlabel="images", ylabel=f"gain in {label(metric, rules=True)[:-2]}")
    axes.legend(loc="upper left")
    return svg(figure)
