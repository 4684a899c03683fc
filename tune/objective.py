"""What trials are compared by: `tuebingen` scores on one half of val.

The scores do not depend on the weights that are tried; results are reported on the other half.
"""

from __future__ import annotations

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
"""Prefix of the scores on the half of val that no trial is tuned on."""
VAL_SEED = 20
"""Decides the halves of val; the same in every search, so that results can be compared."""


def parse_objectives(text: str) -> tuple[str, ...]:
    """Parse `ig`, or several as `nss,kl`; raise ValueError for an unknown or repeated metric."""
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(OBJECTIVES) or len(set(names)) < len(names):
        raise ValueError(f"an objective is one or several of {','.join(OBJECTIVES)}, not {text!r}")
    return names


def direction(objective: str) -> Literal["min", "max"]:
    """Return whether a metric is to be minimised or maximised."""
    return "min" if BY_NAME[objective].lower_is_better else "max"


def gain(objective: str, scores: dict[str, float], baseline: dict[str, float]) -> float:
    """Return how much better than the baseline the scores are by a metric; negative when worse."""
    difference = scores[objective] - baseline[objective]
    return -difference if direction(objective) == "min" else difference


def halves(num_samples: int) -> tuple[list[int], list[int]]:
    """Return the positions of val that trials are tuned on, and those of the held-out half."""
    tuned, held_out = select_encoders.split_in_halves(num_samples, VAL_SEED)
    return tuned.tolist(), held_out.tolist()


def centre_baseline(data: Path | str) -> Baseline:
    """Return the mean training density as the baseline of information gain."""
    reader = ShardReader(data, "train")
    prior = reader.manifest.centre_prior(data)

    @cache
    def baseline(size: tuple[int, int]) -> Tensor:
        return centre_prior(prior, size)

    return baseline
