"""Tables of scores made of given values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.evaluation.evaluate import COVERAGES
from pipelines.evaluation.score_table import ScoreTable, make_frame


def make_table(values: dict[str, dict[str, Sequence[float]]], **about: Any) -> ScoreTable:
    """From values per image, by model and metric."""
    records = []
    for model, metrics in values.items():
        for position, row in enumerate(zip(*metrics.values(), strict=True)):
            record = {"model": model, "image": f"val/{position:03d}", "num_fixations": 10}
            records.append({**record, "constant": False, **dict(zip(metrics, row, strict=True))})
    known = {"data_digest": "d", "split": "val", "ig_baseline": "centre prior of train"}
    return ScoreTable(
        frame=make_frame(records, COVERAGES), about={**known, "best_maps": False, **about}
    )
