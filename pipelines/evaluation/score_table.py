"""Scores per image and model: Parquet files, means with intervals, tables of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emlnet.atomic_files import replace_file
from emlnet.metrics.saliency_metrics import HEADLINES, METRICS
from pipelines.evaluation.intervals import Estimate, estimate
from pipelines.tracking.run_folder import write_json

PARQUET, JSON = "scores.parquet", "scores.json"
ABOUT_ROW = ("model", "image", "num_fixations", "constant")
"""Columns other than the scores; constant: whether the map is constant."""

Means = dict[str, dict[str, float]]
"""Mean over the images by model and metric."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTable:
    """Scores of some models, and baselines, on the images of one split.

    frame: one row per model and image, grouped by model, images in the split's order; columns
    `ABOUT_ROW`, `METRICS` and coverages, NaN for a missing score.
    about: facts such as split, data_digest, ig_baseline and notes; JSON values.
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
        columns = self.frame.drop(columns=[*ABOUT_ROW])
        return [str(name) for name in columns.dropna(axis="columns", how="all")]

    def of(self, model: str) -> pd.DataFrame:
        """Return one model's rows by image."""
        return self.frame[self.frame["model"] == model].set_index("image")

    def only(self, model: str) -> ScoreTable:
        """Return the table of one model."""
        frame = self.frame[self.frame["model"] == model].reset_index(drop=True)
        return ScoreTable(frame=frame, about=self.about)

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
        return {
            model: {
                metric: estimate(values[metric].to_numpy(np.float64))
                for metric in self.metrics
                if values[metric].notna().any()
            }
            for model in self.models
            for values in [self.of(model)]
        }

    @property
    def means(self) -> Means:
        """Means by model and metric."""
        return {m: {name: e.mean for name, e in row.items()} for m, row in self.estimates.items()}

    def save(self, folder: Path) -> None:
        """Write `scores.parquet`, the scores per image, and `scores.json`, means and estimates."""
        write_parquet(folder / PARQUET, self)
        write_json(folder / JSON, self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return means under `scores` and estimates under `estimates`; a missing number is null."""
        estimates = {
            model: {
                metric: {k: v if math.isfinite(v) else _unusual(v) for k, v in asdict(e).items()}
                for metric, e in row.items()
            }
            for model, row in self.estimates.items()
        }
        return {**self.about, "scores": self.means, "estimates": estimates}


def _unusual(value: float) -> str | None:
    """Replace NaN by null and infinity by text, which JSON lacks."""
    return None if math.isnan(value) else str(value)


def make_frame(records: Sequence[dict[str, Any]], coverages: Sequence[str]) -> pd.DataFrame:
    """Make a table's frame from one record per model and image, in the split's order."""
    columns = [*ABOUT_ROW, *METRICS, *coverages]
    frame = pd.DataFrame.from_records(records, columns=columns)
    order = {name: place for place, name in enumerate(frame["model"].unique())}
    return frame.sort_values(
        "model", key=lambda names: names.map(order), kind="stable", ignore_index=True
    )


def write_parquet(path: Path, table: ScoreTable) -> None:
    """Write the scores per image atomically, with `about` in the file's metadata."""
    frame = table.frame.copy()
    frame.attrs.update(table.about)
    with replace_file(path) as temporary:
        frame.to_parquet(temporary)


def read_parquet(path: Path) -> ScoreTable:
    """Read a file of `write_parquet`.  Raises ValueError for any other file."""
    try:
        frame = pd.read_parquet(path)
    except ValueError as error:
        raise ValueError(f"{path} holds no scores: {error}") from error
    if "data_digest" not in frame.attrs:
        raise ValueError(f"{path} holds no scores; `evaluate` and `score` write them")
    return ScoreTable(frame=frame, about={str(k): v for k, v in frame.attrs.items()})


def as_metrics(scores: dict[str, float]) -> dict[str, float]:
    """Return a model's means by their MLflow names, `scores/<metric>`."""
    return {f"scores/{name}": value for name, value in scores.items() if name in METRICS}


def columns_of(rules: str, metrics: Sequence[str]) -> list[str]:
    """Return the columns of a rule book, in its order."""
    return [name for name in METRICS if name.startswith(f"{rules}_") and name in metrics]


def text(scores: Means, columns: Sequence[str] = HEADLINES) -> str:
    """Format means as a table of text, one row per model."""
    return _cells(scores, columns).rename_axis(None).to_string()


def markdown(scores: Means, columns: Sequence[str] = HEADLINES) -> str:
    """Format means as a Markdown table, with the rule book of each column."""
    table = _cells(scores, columns)
    lines = [["", *(METRICS[column].label for column in columns)], ["---"] * (len(columns) + 1)]
    lines += [[str(name), *row] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    rules = "; ".join(
        f"{', '.join(METRICS[c].label for c in columns if c.startswith(book))}: `{book}`"
        for book in dict.fromkeys(column.split("_")[0] for column in columns)
    )
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", f"Rules: {rules}."])


def _cells(scores: Means, columns: Sequence[str]) -> pd.DataFrame:
    cells = {column: [number(row.get(column)) for row in scores.values()] for column in columns}
    return pd.DataFrame(cells, index=list(scores))


def number(value: float | None) -> str:
    """Format with three decimals, without the sign of -0.000; a dash for a missing value."""
    return "-" if value is None or math.isnan(value) else f"{value:z.3f}"
