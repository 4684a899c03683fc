"""The objective of a search: `tuebingen` scores on one half of val.

The scores do not depend on the weights that are tried; results are reported on the other half.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Literal

from emlnet.metrics.baselines import centre_prior
from emlnet.metrics.saliency_metrics import BY_NAME, metric_names
from emlnet.training.validation import Baseline
from pipelines.stages.select_encoders import split_in_halves
from shards.read.reader import ShardReader

OBJECTIVES = metric_names(
    "tuebingen", ("saliency", "density", "fixations", "log_density", "baseline_log_density")
)
"""Metrics that a search can optimise."""
HELD_OUT = "held_out_"
"""Prefix of the scores on the half of val that no trial is tuned on."""
VAL_SEED = 20
"""Seed of the halves of val; equal in all searches, so that results can be compared."""


def parse_objectives(text: str) -> tuple[str, ...]:
    """Parse `ig`, or several as `nss,kl`; raise ValueError for an unknown or repeated metric."""
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(OBJECTIVES) or len(set(names)) < len(names):
        raise ValueError(f"an objective is one or several of {','.join(OBJECTIVES)}, not {text!r}")
    return names


def direction(objective: str) -> Literal["min", "max"]:
    """Return whether a metric is to be minimised or maximised."""
    return "min" if BY_NAME[objective].lower_is_better else "max"


def halves(num_samples: int) -> tuple[list[int], list[int]]:
    """Return the positions of val that trials are tuned on, and those of the held-out half."""
    tuned, held_out = split_in_halves(num_samples, VAL_SEED)
    return tuned.tolist(), held_out.tolist()


@cache
def centre_baseline(data: Path | str) -> Baseline:
    """Return the mean training density as the baseline of information gain, read once."""
    prior = ShardReader(data, "train").manifest.centre_prior(data)
    return cache(partial(centre_prior, prior))
