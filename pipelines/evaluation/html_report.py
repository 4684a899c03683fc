"""Reports on scores: self-contained HTML files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch

from emlnet.metrics import baselines
from emlnet.metrics.saliency_metrics import HEADLINES
from pipelines.evaluation import compare, picture_cards, plots
from pipelines.evaluation import sources as rows
from pipelines.evaluation.evaluate import has_prior
from pipelines.evaluation.intervals import Estimate
from pipelines.evaluation.plots import label
from pipelines.evaluation.score_table import ScoreTable, columns_of, number
from pipelines.evaluation.sources import BASELINES, MapSource, ScoredMap, SplitImage
from shards.read.reader import ShardReader

REPORT, COMPARISON = "report.html", "comparison.html"
NUM_PICTURES = 4
"""Pictures of the worst and of the best that a report shows."""

Pictures = list[tuple[str, list[picture_cards.ImageCard]]]
"""Cards under headings."""


def write_report(
    path: Path, table: ScoreTable, title: str, source: MapSource, reader: ShardReader
) -> None:
    """Write the report on a table, whole or not at all.

    source, reader: of the first row of the table, for the pictures.
    """
    estimates = table.estimates
    main = table.models[0]
    metric = "tuebingen_ig" if "tuebingen_ig" in estimates[main] else "mit_nss"
    about = table.about
    how = "averaged with the mirrored picture's" if about.get("flip") else "as it is"
    _write(
        path,
        "report.html",
        title=title,
        facts=[
            ("model", about.get("model", main)),
            *_facts(table),
            ("each map", how),
        ],
        notes=about["notes"],
        books=[_book(rules, table, estimates) for rules in ("mit", "tuebingen")],
        distributions=[plots.boxes(table, name) for name in HEADLINES if name in table.metrics],
        calibration=plots.calibration(estimates, main),
        pictures=_worst_and_best(table, metric, source, reader),
        picture_metric=label(metric, rules=True)[:-2],
        baseline=about["ig_baseline"],
        scale_ends=("information lost", "information gained"),
    )


def write_comparison(
    path: Path,
    tables: tuple[ScoreTable, ScoreTable],
    metric: str,
    sources: tuple[MapSource | None, MapSource | None],
    reader: ShardReader,
) -> None:
    """Write the comparison of two tables of one model each, whole or not at all.

    metric: by which pictures are chosen.  sources: of both; without both there are no pictures.
    """
    first, second = (table.of(table.models[0]) for table in tables)
    gains = compare.gains(first, second, metric)
    pictures: Pictures = []
    if sources[0] is not None and sources[1] is not None:
        both = [source.to(torch.device("cpu")) for source in sources if source is not None]

        def make(key: str, shown: SplitImage) -> picture_cards.ImageCard:
            values = [float(table[metric][key]) for table in (first, second)]
            title = f"{key}: {label(metric)[:-2]} {values[0]:.2f} against {values[1]:.2f}"
            answers = [
                (name, _answer(source, shown))
                for name, source in zip(("first", "second"), both, strict=True)
            ]
            return picture_cards.card(title, shown, answers)

        ordered = gains.dropna().sort_values(kind="stable")
        headings = ("Where the second is better", "Where the first is better")
        pictures = _two_ends(ordered, headings, make, reader)[::-1]
    _write(
        path,
        "comparison.html",
        title=f"{tables[0].models[0]} against {tables[1].models[0]}",
        facts=[("first", tables[0].models[0]), ("second", tables[1].models[0]), *_facts(tables[0])],
        notes=[],
        differences=[_difference(found) for found in compare.compare(*tables)],
        gains=plots.gains_by_image(gains, metric),
        pictures=pictures,
        picture_metric=label(metric, rules=True)[:-2],
        scale_ends=("the second knows more", "the first knows more"),
    )


def _write(path: Path, template: str, **content: Any) -> None:
    folder = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    page = jinja2.Environment(loader=folder, autoescape=True).get_template(template)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(page.render(scale=picture_cards.GAIN_COLOURS, **content), encoding="utf-8")
    temporary.replace(path)


def _facts(table: ScoreTable) -> list[tuple[str, str]]:
    about = table.about
    best = "each with the map that is best for it"
    return [
        ("data", f"{about['data']}, split {about['split']}, {about['num_images']} images"),
        ("data digest", about["data_digest"][:16]),
        ("IG", f"in bits per fixation, over: {about['ig_baseline']}"),
        ("tuebingen metrics", best if about["best_maps"] else "all of the same map"),
    ]


def _book(
    rules: str, table: ScoreTable, estimates: dict[str, dict[str, Estimate]]
) -> dict[str, Any]:
    """Return the table of a rule book: labels of columns; name, kind and cells of each row."""
    names = columns_of(rules, table.metrics)
    rows = [
        {
            "name": model,
            "kind": "baseline" if model in BASELINES else "model" if place else "main",
            "cells": [_cell(estimates[model].get(name)) for name in names],
        }
        for place, model in enumerate(table.models)
    ]
    return {"rules": rules, "columns": [label(name) for name in names], "rows": rows}


def _cell(value: Estimate | None) -> dict[str, str] | None:
    if value is None:
        return None
    mean, low, high = (number(v) for v in (value.mean, value.low, value.high))
    return {"mean": mean, "interval": f"{low} to {high}"}


def _difference(found: compare.Difference) -> dict[str, str]:
    gain = found.gain
    return {
        "name": label(found.metric, rules=True),
        "first": number(found.first),
        "second": number(found.second),
        "gain": f"{gain.mean:+.4f}",
        "interval": f"{gain.low:+.4f} to {gain.high:+.4f}",
        "wins": f"{found.wins:.0%}",
        "verdict": "better" if found.better else "worse" if found.certain else "",
    }


def _worst_and_best(
    table: ScoreTable, metric: str, source: MapSource, reader: ShardReader
) -> Pictures:
    """Return cards of the worst and of the best images by a metric."""
    main = table.of(table.models[0])
    prior = reader.manifest.centre_prior(reader.folder) if has_prior(reader) else None
    source = source.to(torch.device("cpu"))

    def make(key: str, shown: SplitImage) -> picture_cards.ImageCard:
        words = ", ".join(
            f"{label(name)[:-2]} {float(main[name][key]):.2f}"
            for name in dict.fromkeys((metric, "mit_nss", "mit_cc", "mit_kl"))
        )
        size = shown.targets.size
        baseline = baselines.uniform(size)
        if prior is not None:
            baseline = baselines.centre_prior(prior, size)
        answers = [("prediction", _answer(source, shown))]
        return picture_cards.card(f"{key}: {words}", shown, answers, baseline)

    ordered = main[metric].dropna().sort_values(kind="stable")
    return _two_ends(ordered, ("Worst", "Best"), make, reader)


@torch.inference_mode()
def _answer(source: MapSource, shown: SplitImage) -> ScoredMap:
    return next(iter(source.rows(shown)))


def _two_ends(
    ordered: pd.Series[float],
    headings: Sequence[str],
    make: Callable[[str, SplitImage], picture_cards.ImageCard],
    reader: ShardReader,
) -> Pictures:
    """Return cards of the first few images in an order, and of the last few from the end."""
    num = min(NUM_PICTURES, len(ordered) // 2)
    positions = {key: position for position, key in enumerate(reader.keys)}
    made: Pictures = []
    for heading, part in zip(
        headings, (ordered.head(num), ordered.iloc[::-1].head(num)), strict=True
    ):
        shown = [
            (str(key), rows.show(p, reader.decoded(p), torch.device("cpu")))
            for key in part.index
            for p in [positions[str(key)]]
        ]
        made.append((heading, [make(*given) for given in shown]))
    return made
