"""Two models on the same images: paired differences with intervals, and where they differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from emlnet.metrics.intervals import Estimate, estimate
from pipelines.evaluation.score_table import Table, lower_is_better

METRIC = "tuebingen_ig"
"""What decides between two models unless another is chosen: information gain, bits per fixation."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What a metric says of two models, image by image.

    first, second: their means over the images where both have a value.  gain: of the first over the
    second, above 0 where the first is better, whichever way the metric runs.  wins: share of the
    images on which the first is better, a draw counting half.
    """

    metric: str
    first: float
    second: float
    gain: Estimate
    wins: float

    @property
    def certain(self) -> bool:
        """Whether the 95 % interval leaves 0 out."""
        return self.gain.low > 0 or self.gain.high < 0

    @property
    def better(self) -> bool:
        """Whether the first is better with a 95 % interval above 0."""
        return self.gain.low > 0


def gains(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> pd.Series[float]:
    """Of the first over the second per image, above 0 where the first is better."""
    sign = -1 if lower_is_better(metric) else 1
    return sign * (first[metric] - second[metric])


def compare(first: Table, second: Table, metrics: Sequence[str] = ()) -> list[Difference]:
    """The difference in each metric of two tables of one model each.

    metrics: those wanted, all that both have when empty.
    Raises ValueError when the tables are not of the same images, scored alike.
    """
    check_alike(first, second)
    names = list(metrics) or [m for m in first.metrics if m in second.metrics]
    names = [name for name in names if not name.startswith("coverage_")]
    one, two = (table.of(table.models[0]) for table in (first, second))
    differences = pd.DataFrame({name: gains(one, two, name) for name in names})
    estimates = estimate(differences.to_numpy(np.float64))
    found = []
    for name, gain in zip(names, estimates, strict=True):
        values = differences[name].dropna()
        found.append(
            Difference(
                metric=name,
                first=float(one[name][values.index].mean()),
                second=float(two[name][values.index].mean()),
                gain=gain,
                wins=float(((values > 0) + (values == 0) / 2).mean()),
            )
        )
    return found


def check_alike(first: Table, second: Table) -> None:
    """Raises ValueError unless two tables of one model each were made the same way."""
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
    """The differences as a table of text, a row a metric."""
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
