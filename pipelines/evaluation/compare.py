"""Compare two models on the same images: paired differences with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from emlnet.metrics.saliency_metrics import METRICS
from pipelines.evaluation.intervals import Estimate, estimate
from pipelines.evaluation.score_table import ScoreTable

METRIC = "tuebingen_ig"
"""Metric that decides between two models by default: information gain, in bits per fixation."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of two models in one metric.

    first, second: their means over the images where both have a value.  gain: of the first over the
    second; above 0 means that the first is better, also where less is better.  wins: share of the
    images on which the first is better; a draw counts half.
    """

    metric: str
    first: float
    second: float
    gain: Estimate
    wins: float

    @property
    def certain(self) -> bool:
        """Whether the 95 % interval excludes 0."""
        return self.gain.low > 0 or self.gain.high < 0

    @property
    def better(self) -> bool:
        """Whether the 95 % interval of the gain is above 0."""
        return self.gain.low > 0


def gains(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> pd.Series[float]:
    """Return the gain of the first over the second per image, above 0 where the first is better."""
    return METRICS[metric].sign * (first[metric] - second[metric])


def compare(first: ScoreTable, second: ScoreTable, metrics: Sequence[str] = ()) -> list[Difference]:
    """Compare two tables of one model each.

    metrics: full names; all that both tables have when empty.
    Raises ValueError unless both were scored on the same images in the same way.
    """
    check_alike(first, second)
    names = list(metrics) or [m for m in first.metrics if m in second.metrics]
    names = [name for name in names if not name.startswith("coverage_")]
    one, two = (table.of(table.models[0]) for table in (first, second))
    found = []
    for name in names:
        values = gains(one, two, name).dropna()
        found.append(
            Difference(
                metric=name,
                first=float(one[name][values.index].mean()),
                second=float(two[name][values.index].mean()),
                gain=estimate(np.asarray(values, np.float64)),
                wins=float(((values > 0) + (values == 0) / 2).mean()),
            )
        )
    return found


def check_alike(first: ScoreTable, second: ScoreTable) -> None:
    """Raise ValueError unless two tables of one model each were scored in the same way."""
    for what in ("data_digest", "split", "ig_baseline", "best_maps"):
        ours, theirs = first.about.get(what), second.about.get(what)
        if ours != theirs:
            raise ValueError(
                f"the scores cannot be compared: {what} is {ours} of {first.models[0]}, "
                f"{theirs} of {second.models[0]}; score both on the same split alike"
            )
    images = [table.of(table.models[0]).index for table in (first, second)]
    if not images[0].equals(images[1]):
        raise ValueError(
            f"{first.models[0]} and {second.models[0]} were scored on different images"
        )


def text(differences: Sequence[Difference], names: tuple[str, str]) -> str:
    """Format the differences as a table of text, one row per metric."""
    first, second = (name if len(name) <= 24 else f"...{name[-21:]}" for name in names)
    width = max(len(first), len(second), 8) + 2
    lines = [
        f"{'':22}{first:>{width}}{second:>{width}}   gain of the first, 95 %        wins",
    ]
    for row in differences:
        mark = "better" if row.better else "worse" if row.certain else ""
        lines.append(
            f"{row.metric:22}{row.first:>{width}.3f}{row.second:>{width}.3f}   "
            f"{row.gain.mean:+.4f} [{row.gain.low:+.4f}, {row.gain.high:+.4f}]  "
            f"{row.wins:4.0%}  {mark}".rstrip()
        )
    return "\n".join(lines)
