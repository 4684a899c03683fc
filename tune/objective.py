"""What trials are compared by: `tuebingen` scores of the pictures that are tuned on.

No weight that is tried enters a score, and the pictures that a result is reported on are others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from torch import Tensor

from emlnet.metrics.baselines import centre_prior
from emlnet.metrics.saliency_metrics import BY_NAME, metric_names
from emlnet.training.validation import Baseline
from pipelines.stages import select_encoders
from shards.read.reader import ShardReader

OBJECTIVES = metric_names(
    "tuebingen", ("saliency", "density", "fixations", "log_density", "baseline_log_density")
)
"""Metrics that a search can optimise."""
HELD_OUT = "held_out_"
"""What the name of a score on the pictures that no trial is tuned on begins with."""
VAL_SEED = 20
"""Which half of val is tuned on; the same in every search, so that results can be compared."""


def parse_objectives(text: str) -> tuple[str, ...]:
    """From `ig`, or several as `nss,kl`.  Raises ValueError for what is no metric."""
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(OBJECTIVES) or len(set(names)) < len(names):
        raise ValueError(f"an objective is one or several of {','.join(OBJECTIVES)}, not {text!r}")
    return names


def direction(objective: str) -> Literal["min", "max"]:
    """Whether less or more of a metric is better."""
    return "min" if BY_NAME[objective].lower_is_better else "max"


def gain(objective: str, scores: dict[str, float], than: dict[str, float]) -> float:
    """How much better the first scores are by a metric; below 0 when they are worse."""
    difference = scores[objective] - than[objective]
    return -difference if direction(objective) == "min" else difference


def halves(num_samples: int) -> tuple[list[int], list[int]]:
    """Positions of val that trials are tuned on, and those that results are reported on."""
    tuned, held_out = select_encoders.split_in_halves(num_samples, VAL_SEED)
    return tuned.tolist(), held_out.tolist()


def centre_baseline(data: Path | str) -> Baseline:
    """The mean training density as the baseline of information gain."""
    reader = ShardReader(data, "train")
    prior = reader.manifest.centre_prior(data)

    @cache
    def baseline(size: tuple[int, int]) -> Tensor:
        return centre_prior(prior, size)

    return baseline


def is_finite(scores: dict[str, float], objectives: Sequence[str]) -> bool:
    """Whether each objective has a number."""
    return all(math.isfinite(scores[name]) for name in objectives)
