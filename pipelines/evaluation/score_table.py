"""Scores per image and model: Parquet files, means with intervals, tables of text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emlnet.metrics.saliency_metrics import HEADLINES, METRICS
from pipelines.evaluation.intervals import Estimate, estimate
from pipelines.tracking.run_folder import write_json

ABOUT_ROW = ("model", "image", "num_fixations", "constant")
"""Columns beside the scores; constant: whether the map is constant."""

Means = dict[str, dict[str, float]]
"""Mean over the images by model and metric."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTable:
    """Scores of some models, and baselines, on the images of one split.

    frame: a row for each model and image, models together, images in the split's order; columns
    `ABOUT_ROW`, then `METRICS` and the coverages, NaN where there is none.
    about: what was scored on what: split, data_digest, ig_baseline, notes; JSON values.
    """

    frame: pd.DataFrame
    about: dict[str, Any]

    @property
    def models(self) -> list[str]:
        """Names of the models in order."""
        return [str(name) for name in self.frame["model"].unique()]

    @property
    def metrics(self) -> list[str]:
        """Columns that hold any value: metrics and coverages."""
        known = [
            name for name in self.frame.columns[len(ABOUT_ROW) :] if self.frame[name].notna().any()
        ]
        return [str(name) for name in known]

    def of(self, model: str) -> pd.DataFrame:
        """Return one model's rows by image.  Raises ValueError that lists the known models."""
        if model not in self.models:
            raise ValueError(f"no scores of {model!r}; there are {', '.join(self.models)}")
        return self.frame[self.frame["model"] == model].set_index("image")

    def only(self, model: str) -> ScoreTable:
        """Return the table of one model."""
        return ScoreTable(frame=self.of(model).reset_index()[self.frame.columns], about=self.about)

    def led_by(self, model: str) -> ScoreTable:
        """Return the table with a model's rows first."""
        order = (self.frame["model"] != model).sort_values(kind="stable").index
        return ScoreTable(frame=self.frame.loc[order].reset_index(drop=True), about=self.about)

    def renamed(self, old: str, new: str) -> ScoreTable:
        """Return the table with a model renamed."""
        return ScoreTable(frame=self.frame.replace({"model": {old: new}}), about=self.about)

    @cached_property
    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """Estimates by model and metric, where a model has a value."""
        found = {}
        for model in self.models:
            values = self.of(model)
            row = {metric: estimate(values[metric].to_numpy(np.float64)) for metric in self.metrics}
            found[model] = {metric: estimate for metric, estimate in row.items() if estimate.num}
        return found

    @property
    def means(self) -> Means:
        """Means by model and metric."""
        return {m: {name: e.mean for name, e in row.items()} for m, row in self.estimates.items()}

    def save(self, folder: Path) -> None:
        """Write `scores.parquet`, the scores per image, and `scores.json`, means and estimates."""
        folder.mkdir(parents=True, exist_ok=True)
        write_parquet(folder / PARQUET, self)
        write_json(folder / JSON, self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return means under `scores` and estimates under `estimates`; a missing number is null."""
        return {
            **self.about,
            "scores": self.means,
            "estimates": {
                model: {m: _plain(asdict(e)) for m, e in row.items()}
                for model, row in self.estimates.items()
            },
        }


PARQUET, JSON = "scores.parquet", "scores.json"
_ABOUT = b"emlnet"


def write_parquet(path: Path, table: ScoreTable) -> None:
    """Write the scores per image, with `about` in the file's metadata; whole or not at all."""
    content = pa.Table.from_pandas(table.frame, preserve_index=False)
    about = {**(content.schema.metadata or {}), _ABOUT: json.dumps(table.about)}
    temporary = path.with_name(f"{path.name}.tmp")
    pq.write_table(content.replace_schema_metadata(about), temporary)
    temporary.replace(path)


def read_parquet(path: Path) -> ScoreTable:
    """Read what `write_parquet` wrote.  Raises ValueError for another file."""
    try:
        content = pq.read_table(path)
        about = json.loads((content.schema.metadata or {})[_ABOUT])
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path} holds no scores that `evaluate` or `score` wrote") from error
    return ScoreTable(frame=content.to_pandas(), about=about)


def as_metrics(scores: dict[str, float]) -> dict[str, float]:
    """Return a model's means by their MLflow names, which have a chart section of their own."""
    return {f"scores/{name}": value for name, value in scores.items() if name in METRICS}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN by null and infinity by text, which JSON lacks."""
    return {
        k: v if isinstance(v, int) or math.isfinite(v) else None if math.isnan(v) else str(v)
        for k, v in values.items()
    }


def columns_of(rules: str, metrics: Sequence[str]) -> list[str]:
    """Return the columns of a rule book, in its order."""
    return [name for name in METRICS if name.startswith(f"{rules}_") and name in metrics]


def text(scores: Means, columns: Sequence[str] = HEADLINES) -> str:
    """Format means as a table of text, one row per model."""
    width = max(map(len, scores))
    lines = [" " * width + "".join(f"  {column:>8}" for column in columns)]
    for row, values in scores.items():
        cells = "".join(f"  {number(values.get(c)):>{max(8, len(c))}}" for c in columns)
        lines.append(f"{row:<{width}}{cells}")
    return "\n".join(lines)


def markdown(scores: Means, columns: Sequence[str] = HEADLINES) -> str:
    """Format means as a Markdown table, with the rule book of each column."""
    books = [column.split("_", 1) for column in columns]
    heads = [METRICS[column].label for column in columns]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for row, values in scores.items():
        lines.append(f"| {row} | {' | '.join(number(values.get(c)) for c in columns)} |")
    by_book: dict[str, list[str]] = {}
    for (book, _), head in zip(books, heads, strict=True):
        by_book.setdefault(book, []).append(head)
    rules = "; ".join(f"{', '.join(names)}: `{book}`" for book, names in by_book.items())
    return "\n".join([*lines, "", f"Rules: {rules}."])


def number(value: float | None) -> str:
    """Format with three decimals, without the sign of -0.000; a dash for a missing value."""
    if value is None or math.isnan(value):
        return "-"
    words = f"{value:.3f}"
    return words.removeprefix("-") if words == "-0.000" else words


def make_frame(records: Sequence[dict[str, Any]], coverages: Sequence[str]) -> pd.DataFrame:
    """Make a table's frame from one record per model and image, in the split's order."""
    columns = [*ABOUT_ROW, *METRICS, *coverages]
    frame = pd.DataFrame.from_records(records, columns=columns)
    order = {name: place for place, name in enumerate(frame["model"].unique())}
    places = frame["model"].map(order).to_numpy()
    return frame.iloc[np.argsort(places, kind="stable")].reset_index(drop=True)
