"""Reports on scores as self-contained HTML files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch

from emlnet.atomic_files import write_text
from emlnet.metrics.saliency_metrics import HEADLINES, METRICS
from pipelines.evaluation import compare, plots
from pipelines.evaluation.evaluate import find_prior
from pipelines.evaluation.plots import Panels, label
from pipelines.evaluation.score_table import ScoreTable, columns_of, number
from pipelines.evaluation.sources import (
    BASELINES,
    MapSource,
    ScoredMap,
    SplitImage,
    ig_baseline,
    prepare_split_image,
)
from shards.read.reader import ShardReader

REPORT, COMPARISON = "report.html", "comparison.html"
TEMPLATE = Path(__file__).with_name("report.html")
NUM_PICTURES = 4
"""A report shows this many of the best pictures, and as many of the worst."""

Draw = Callable[[str, SplitImage], tuple[str, Panels]]
"""Function of an image's key and the image; returns a title and pictures."""


def write_report(
    path: Path, table: ScoreTable, title: str, source: MapSource, reader: ShardReader
) -> None:
    """Write the report on a table atomically.

    source, reader: maps and images of the table's first model, for the pictures.
    """
    main, about = table.models[0], table.about
    metric = "tuebingen_ig" if "tuebingen_ig" in table.estimates[main] else "mit_nss"
    scores, prior = table.of(main), find_prior(reader)

    def draw(key: str, split_image: SplitImage) -> tuple[str, Panels]:
        shown_metrics = dict.fromkeys((metric, "mit_nss", "mit_cc", "mit_kl"))
        words = ", ".join(f"{METRICS[m].label} {scores[m][key]:.2f}" for m in shown_metrics)
        baseline = ig_baseline(prior, split_image.targets.size)
        answers = [(f"map of {main}", _answer(source, split_image))]
        return f"{key}: {words}", plots.draw_panels(split_image, answers, baseline)

    how = "averaged with the mirrored picture's" if about.get("flip") else "as it is"
    ordered = scores[metric].dropna().sort_values(kind="stable")
    write_page(
        path,
        TEMPLATE,
        title=title,
        facts={"model": about.get("model", main), **_facts(table), "each map": how},
        notes=about["notes"],
        books={rules: _book(rules, table) for rules in ("mit", "tuebingen")},
        row_classes=dict.fromkeys(BASELINES, "baseline") | {main: "main"},
        distributions=[plots.boxes(table, name) for name in HEADLINES if name in table.metrics],
        calibration=plots.calibration(table),
        pictures=_two_ends(ordered, ("Worst", "Best"), draw, reader),
        picture_metric=label(metric, rules=True, arrow=False),
        baseline=about["ig_baseline"],
    )


def write_comparison(
    path: Path,
    tables: tuple[ScoreTable, ScoreTable],
    metric: str,
    sources: tuple[MapSource | None, MapSource | None],
    reader: ShardReader,
) -> None:
    """Write the comparison of two tables of one model each atomically.

    metric: chooses the pictures.  sources: where the maps come from; if one is None, there are no
    pictures.
    """
    names = [table.models[0] for table in tables]
    scores = [table.of(name)[metric] for table, name in zip(tables, names, strict=True)]
    gains = compare.gains(*tables, metric).sort_values(ascending=False, kind="stable")
    known = [source for source in sources if source is not None]

    def draw(key: str, split_image: SplitImage) -> tuple[str, Panels]:
        first, second = (float(values[key]) for values in scores)
        answers = [
            (f"map of the {which}", _answer(source, split_image))
            for which, source in zip(("first", "second"), known, strict=True)
        ]
        title = f"{key}: {METRICS[metric].label} {first:.2f} against {second:.2f}"
        return title, plots.draw_panels(split_image, answers)

    headings = ("Where the first is better", "Where the second is better")
    write_page(
        path,
        TEMPLATE,
        title=f"{names[0]} against {names[1]}",
        facts={"first": names[0], "second": names[1], **_facts(tables[0])},
        differences=compare.difference_table(compare.compare(*tables)).rename(
            lambda metric: label(metric, rules=True)
        ),
        gains=plots.gains_by_image(gains, metric),
        pictures=_two_ends(gains, headings, draw, reader) if len(known) == 2 else {},
        picture_metric=label(metric, rules=True, arrow=False),
    )


def write_page(path: Path, template: Path, **content: Any) -> None:
    """Render a template that extends page.html, and write the page atomically."""
    loader = jinja2.FileSystemLoader([template.parent, TEMPLATE.parent])
    environment = jinja2.Environment(loader=loader, autoescape=True)
    write_text(path, environment.get_template(template.name).render(content))


def _facts(table: ScoreTable) -> dict[str, str]:
    about = table.about
    best = "each with the map that is best for it"
    return {
        "data": f"{about['data']}, split {about['split']}, {about['num_images']} images",
        "data digest": about["data_digest"][:16],
        "IG": f"in bits per fixation, relative to: {about['ig_baseline']}",
        "tuebingen metrics": best if about["best_maps"] else "all computed from the same map",
    }


def _book(rules: str, table: ScoreTable) -> pd.DataFrame:
    """Return a rule book's scores; each cell is a line with the mean and one with its interval."""
    cells = {
        label(name): [
            f"{number(e.mean)}\n{number(e.low)} to {number(e.high)}" if e else "-"
            for e in (row.get(name) for row in table.estimates.values())
        ]
        for name in columns_of(rules, table.metrics)
    }
    return pd.DataFrame(cells, index=table.models)


@torch.inference_mode()
def _answer(source: MapSource, split_image: SplitImage) -> ScoredMap:
    return next(iter(source.rows(split_image)))


def _two_ends(
    ordered: pd.Series[float], headings: Sequence[str], draw: Draw, reader: ShardReader
) -> dict[str, list[tuple[str, Panels]]]:
    """Draw the first and the last few images of an order, each group under its heading."""
    num = min(NUM_PICTURES, len(ordered) // 2)
    ends = ordered.index[:num], ordered.index[::-1][:num]
    drawn = {}
    for heading, keys in zip(headings, ends, strict=True):
        positions = [reader.keys.index(key) for key in keys]
        drawn[heading] = [
            draw(key, prepare_split_image(position, reader.decoded(position), torch.device("cpu")))
            for key, position in zip(keys, positions, strict=True)
        ]
    return drawn
