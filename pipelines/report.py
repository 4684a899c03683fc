"""A report on scores: one HTML file that needs nothing else, for a person to look at."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
import torch

from emlnet import baselines
from emlnet.calibration import LEVELS
from emlnet.intervals import Estimate
from pipelines import cards, rows
from pipelines.evaluation import COVERAGES, has_prior
from pipelines.rows import BASELINES, Source
from pipelines.table import SHORT, Table, columns_of, lower_is_better, number
from shards.reader import ShardReader

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REPORT = "report.html"
NUM_PICTURES = 4
"""Shown of the worst, and of the best."""
LABELS = {
    "nss": "NSS",
    "cc": "CC",
    "kl": "KL",
    "sim": "SIM",
    "auc": "AUC",
    "auc_judd": "AUC-Judd",
    "auc_borji": "AUC-Borji",
    "sauc": "sAUC",
    "ig": "IG",
}
# Okabe and Ito's colours, told apart without colour vision by their lightness and by the marks.
MODEL_COLOUR, BASELINE_COLOUR = "#0072b2", "#e69f00"


def label(metric: str, rules: bool = False) -> str:
    """How a metric is called, with an arrow to the better side."""
    book, name = metric.split("_", 1)
    arrow = "↓" if lower_is_better(metric) else "↑"
    return f"{LABELS[name]}{f' ({book})' if rules else ''} {arrow}"


def write_report(path: Path, table: Table, title: str, source: Source, reader: ShardReader) -> None:
    """Writes the report on a table, whole or not at all.

    source, reader: of the first row of the table, for the pictures.
    """
    estimates = table.estimates()
    main = table.models[0]
    metric = "tuebingen_ig" if "tuebingen_ig" in estimates[main] else "mit_nss"
    about = table.about
    template = jinja2.Environment(autoescape=True).from_string(
        Path(__file__).with_suffix(".html").read_text()
    )
    text = template.render(
        title=title,
        facts=[
            ("model", about.get("model", main)),
            ("data", f"{about['data']}, split {about['split']}, {about['num_images']} images"),
            ("data digest", about["data_digest"][:16]),
            (
                "each map",
                "averaged with the mirrored picture's" if about.get("flip") else "as it is",
            ),
            ("IG", f"in bits per fixation, over: {about['ig_baseline']}"),
            (
                "tuebingen metrics",
                "each with the map that is best for it"
                if about["best_maps"]
                else "all of the same map",
            ),
        ],
        notes=about["notes"],
        books=[_book(rules, table, estimates) for rules in ("mit", "tuebingen")],
        distributions=[_svg(_boxes(table, name)) for name in SHORT if name in table.metrics],
        calibration=_calibration(estimates, main),
        pictures=_pictures(table, metric, source, reader),
        picture_metric=label(metric, rules=True)[:-2],
        baseline=about["ig_baseline"],
        scale=cards.GAIN_COLOURS,
    )
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@dataclass(frozen=True, kw_only=True)
class Book:
    """The table of a rule book.  columns: labels.  rows: name, kind and cells of each."""

    rules: str
    columns: list[str]
    rows: list[dict[str, Any]]


def _book(rules: str, table: Table, estimates: dict[str, dict[str, Estimate]]) -> Book:
    names = columns_of(rules, table.metrics)
    return Book(
        rules=rules,
        columns=[label(name) for name in names],
        rows=[
            {
                "name": model,
                "kind": "baseline" if model in BASELINES else "model" if place else "main",
                "cells": [_cell(estimates[model].get(name)) for name in names],
            }
            for place, model in enumerate(table.models)
        ],
    )


def _cell(value: Estimate | None) -> dict[str, str] | None:
    if value is None:
        return None
    mean, low, high = (number(v) for v in (value.mean, value.low, value.high))
    return {"mean": mean, "interval": f"{low} to {high}"}


def _pictures(
    table: Table, metric: str, source: Source, reader: ShardReader
) -> list[tuple[str, list[cards.Card]]]:
    """Cards of the worst and of the best images by a metric."""
    main = table.of(table.models[0])
    ordered = main[metric].dropna().sort_values(kind="stable")
    num = min(NUM_PICTURES, len(ordered) // 2)
    positions = {key: position for position, key in enumerate(reader.keys)}
    prior = reader.manifest.centre_prior(reader.folder) if has_prior(reader) else None
    source = source.to(torch.device("cpu"))

    def make(chosen: pd.Series[float]) -> list[cards.Card]:
        made = []
        for key in chosen.index:
            position = positions[str(key)]
            shown = rows.show(position, reader.decoded(position), torch.device("cpu"))
            size = shown.targets.size
            baseline = (
                baselines.uniform(size) if prior is None else baselines.centre_prior(prior, size)
            )
            with torch.inference_mode():
                row = next(iter(source.rows(shown)))
                words = ", ".join(
                    f"{label(name)[:-2]} {main.loc[key, name]:.2f}"
                    for name in dict.fromkeys((metric, "mit_nss", "mit_cc", "mit_kl"))
                )
                made.append(cards.card(f"{key}: {words}", shown, row, baseline))
        return made

    return [("Worst", make(ordered.head(num))), ("Best", make(ordered.iloc[::-1].head(num)))]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _boxes(table: Table, metric: str) -> Figure:
    """A metric's values over the images, a box for each row whose scale suits the others."""
    values = {
        model: table.of(model)[metric].replace([np.inf, -np.inf], np.nan).dropna()
        for model in table.models
        if model not in (rows.UNIFORM, rows.OTHER)
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
    return figure


def _calibration(estimates: dict[str, dict[str, Estimate]], main: str) -> str | None:
    """Share of fixations against share of the density, with intervals; None without a density."""
    styles = {main: ("-", "o", MODEL_COLOUR), rows.CENTRE: ("--", "s", BASELINE_COLOUR)}
    shown = {m: style for m, style in styles.items() if COVERAGES[0] in estimates.get(m, {})}
    if main not in shown:
        return None
    figure, axes = _figure(4.6, 4.2)
    axes.plot([0, 1], [0, 1], ":", color="black", label="as it says")
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
    return _svg(figure)


def _svg(figure: Figure) -> str:
    """The figure as an SVG element."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # Text stays text; ids are the same each time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report", "hatch.linewidth": 0.6}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
