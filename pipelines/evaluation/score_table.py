"""Scores per image and model, and what they come to: Parquet, means with intervals, tables."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emlnet.metrics.intervals import Estimate, estimate
from emlnet.metrics.saliency_metrics import LABELS
from pipelines.tracking.run_folder import write_json

MIT = ("nss", "cc", "kl", "sim", "auc_judd", "auc_borji", "sauc", "ig")
TUEBINGEN = ("nss", "cc", "kl", "sim", "auc", "sauc", "ig")
METRICS = tuple(f"mit_{name}" for name in MIT) + tuple(f"tuebingen_{name}" for name in TUEBINGEN)
"""Every metric is named with its rule book."""
ABOUT_ROW = ("model", "image", "num_fixations", "constant")
"""What is known of a row beside its scores; constant: whether the map is."""
SHORT = ("mit_nss", "mit_cc", "mit_kl", "mit_sim", "mit_auc_judd", "tuebingen_ig")
"""The few that a short table shows."""

Means = dict[str, dict[str, float]]
"""Mean over the images by model and metric."""


def lower_is_better(metric: str) -> bool:
    """Of a metric by its full name."""
    return metric.endswith("_kl")


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Scores of some models, and baselines, on the images of one split.

    frame: a row for each model and image, models together, images in the split's order; columns
    `ABOUT_ROW`, then `METRICS` and the coverages, NaN where there is none.
    about: what was scored on what: split, data_digest, ig_baseline, notes; JSON values.
    """

    frame: pd.DataFrame
    about: dict[str, Any]

    @property
    def models(self) -> list[str]:
        """The rows' names in order."""
        return [str(name) for name in self.frame["model"].unique()]

    @property
    def metrics(self) -> list[str]:
        """Columns that hold any value: metrics and coverages."""
        known = [
            name for name in self.frame.columns[len(ABOUT_ROW) :] if self.frame[name].notna().any()
        ]
        return [str(name) for name in known]

    def of(self, model: str) -> pd.DataFrame:
        """One model's rows, by image.  Raises ValueError that lists the models there are."""
        if model not in self.models:
            raise ValueError(f"no scores of {model!r}; there are {', '.join(self.models)}")
        return self.frame[self.frame["model"] == model].set_index("image")

    def only(self, model: str) -> Table:
        """The table of one model."""
        return Table(frame=self.of(model).reset_index()[self.frame.columns], about=self.about)

    def led_by(self, model: str) -> Table:
        """The same with a model's rows first."""
        order = (self.frame["model"] != model).sort_values(kind="stable").index
        return Table(frame=self.frame.loc[order].reset_index(drop=True), about=self.about)

    def renamed(self, old: str, new: str) -> Table:
        """The same with a model's name changed."""
        return Table(frame=self.frame.replace({"model": {old: new}}), about=self.about)

    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """By model and metric, those that have a value."""
        metrics, models = self.metrics, self.models
        images = self.frame["image"].unique()
        columns = [self.of(model)[metrics].reindex(images) for model in models]
        stacked = np.concatenate([part.to_numpy(np.float64) for part in columns], axis=1)
        found = iter(estimate(stacked))
        table = {model: {metric: next(found) for metric in metrics} for model in models}
        return {
            model: {metric: e for metric, e in row.items() if e.num} for model, row in table.items()
        }

    def save(self, folder: Path) -> None:
        """Writes `scores.parquet`, values per image, and `scores.json`, what they come to."""
        folder.mkdir(parents=True, exist_ok=True)
        write_parquet(folder / PARQUET, self)
        write_json(folder / JSON, self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Means under `scores`, the whole estimates under `estimates`; no number is null."""
        estimates = self.estimates()
        return {
            **self.about,
            "scores": means(estimates),
            "estimates": {
                model: {m: _plain(asdict(e)) for m, e in row.items()}
                for model, row in estimates.items()
            },
        }


PARQUET, JSON = "scores.parquet", "scores.json"
_ABOUT = b"emlnet"


def write_parquet(path: Path, table: Table) -> None:
    """Writes values per image, and in the file's metadata what they are of; whole or not at all."""
    content = pa.Table.from_pandas(table.frame, preserve_index=False)
    about = {**(content.schema.metadata or {}), _ABOUT: json.dumps(table.about)}
    temporary = path.with_name(f"{path.name}.tmp")
    pq.write_table(content.replace_schema_metadata(about), temporary)
    temporary.replace(path)


def read_parquet(path: Path) -> Table:
    """Reads what `write_parquet` wrote.  Raises ValueError for another file."""
    try:
        content = pq.read_table(path)
        about = json.loads((content.schema.metadata or {})[_ABOUT])
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path} holds no scores that `evaluate` or `score` wrote") from error
    return Table(frame=content.to_pandas(), about=about)


def means(estimates: dict[str, dict[str, Estimate]]) -> Means:
    """The means alone."""
    return {model: {m: e.mean for m, e in row.items()} for model, row in estimates.items()}


def as_metrics(scores: dict[str, float]) -> dict[str, float]:
    """A model's means by the names that MLflow gets: charts in a section of their own."""
    return {f"scores/{name}": value for name, value in scores.items() if name in METRICS}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has neither NaN nor infinity: they become null and text."""
    return {
        k: v if isinstance(v, int) or math.isfinite(v) else None if math.isnan(v) else str(v)
        for k, v in values.items()
    }


def columns_of(rules: str, metrics: Sequence[str]) -> list[str]:
    """Those of a rule book, in its order."""
    return [name for name in METRICS if name.startswith(f"{rules}_") and name in metrics]


def text(scores: Means, columns: Sequence[str] = SHORT) -> str:
    """The means as a table of text, a row a model."""
    width = max(map(len, scores))
    lines = [" " * width + "".join(f"  {column:>8}" for column in columns)]
    for row, values in scores.items():
        cells = "".join(f"  {number(values.get(c)):>{max(8, len(c))}}" for c in columns)
        lines.append(f"{row:<{width}}{cells}")
    return "\n".join(lines)


def markdown(scores: Means, columns: Sequence[str] = SHORT) -> str:
    """The means as a Markdown table, and by which rules they are."""
    books = [column.split("_", 1) for column in columns]
    heads = [LABELS[name] for _, name in books]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for row, values in scores.items():
        lines.append(f"| {row} | {' | '.join(number(values.get(c)) for c in columns)} |")
    by_book: dict[str, list[str]] = {}
    for (book, _), head in zip(books, heads, strict=True):
        by_book.setdefault(book, []).append(head)
    rules = "; ".join(f"{', '.join(names)}: `{book}`" for book, names in by_book.items())
    return "\n".join([*lines, "", f"Rules: {rules}."])


def number(value: float | None) -> str:
    """Three decimals, none negative that is 0 so; a dash where there is no value."""
    if value is None or math.isnan(value):
        return "-"
    words = f"{value:.3f}"
    return words.removeprefix("-") if words == "-0.000" else words


def make_frame(records: Sequence[dict[str, Any]], coverages: Sequence[str]) -> pd.DataFrame:
    """A table's frame from a record for each model and image, in the split's order."""
    columns = [*ABOUT_ROW, *METRICS, *coverages]
    frame = pd.DataFrame.from_records(records, columns=columns)
    order = {name: place for place, name in enumerate(frame["model"].unique())}
    places = frame["model"].map(order).to_numpy()
    return frame.iloc[np.argsort(places, kind="stable")].reset_index(drop=True)
