"""Compare two models on the same images: paired differences with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from emlnet.metrics.saliency_metrics import METRICS
from pipelines.evaluation.intervals import Estimate, estimate
from pipelines.evaluation.score_table import ScoreTable, number

METRIC = "tuebingen_ig"
"""Default metric to compare models by: information gain, in bits per fixation."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of two models in one metric.

    first, second: means over the images where both have a value.  gain: of the first over the
    second; above 0 the first is better, also if lower values are better.  wins: share of the images
    on which the first is better; a draw counts half.
    """

    metric: str
    first: float
    second: float
    gain: Estimate
    wins: float

    @property
    def better(self) -> bool:
        """Whether the 95 % interval of the gain is above 0."""
        return self.gain.low > 0

    @property
    def verdict(self) -> str:
        """The first is `better` or `worse`; empty if the 95 % interval includes 0."""
        return "better" if self.better else "worse" if self.gain.high < 0 else ""


def gains(first: ScoreTable, second: ScoreTable, metric: str) -> pd.Series[float]:
    """Return the gain on each image where both have a value; above 0 the first is better."""
    one, two = (table.of(table.models[0])[metric] for table in (first, second))
    return (METRICS[metric].sign * (one - two)).dropna()


def compare(first: ScoreTable, second: ScoreTable, metrics: Sequence[str] = ()) -> list[Difference]:
    """Compare two tables of one model each.

    metrics: names with their rule book; empty: all that both tables have.
    Raises ValueError unless both were scored on the same images in the same way.
    """
    check_alike(first, second)
    found = []
    for metric in metrics or [m for m in METRICS if m in first.metrics and m in second.metrics]:
        values = gains(first, second, metric)
        one, two = (table.of(table.models[0])[metric] for table in (first, second))
        found.append(
            Difference(
                metric=metric,
                first=float(one[values.index].mean()),
                second=float(two[values.index].mean()),
                gain=estimate(np.asarray(values, np.float64)),
                wins=float(((values > 0) + (values == 0) / 2).mean()),
            )
        )
    return found


def check_alike(first: ScoreTable, second: ScoreTable) -> None:
    """Raise ValueError unless two tables of one model each were scored in the same way."""
    names = first.models[0], second.models[0]
    for what in ("data_digest", "split", "ig_baseline", "best_maps"):
        ours, theirs = first.about.get(what), second.about.get(what)
        if ours != theirs:
            raise ValueError(
                f"the scores cannot be compared: {what} is {ours} for {names[0]} and "
                f"{theirs} for {names[1]}; score both in the same way"
            )
    if not first.of(names[0]).index.equals(second.of(names[1]).index):
        raise ValueError(f"{names[0]} and {names[1]} were scored on different images")


def difference_table(differences: Sequence[Difference]) -> pd.DataFrame:
    """Return the differences as text, a row for each metric."""
    return pd.DataFrame(
        [
            {
                "first": number(row.first),
                "second": number(row.second),
                "gain of the first": f"{row.gain.mean:+.4f}",
                "95 % interval": f"{row.gain.low:+.4f} to {row.gain.high:+.4f}",
                "wins": f"{row.wins:.0%}",
                "the first is": row.verdict,
            }
            for row in differences
        ],
        index=[row.metric for row in differences],
    )
