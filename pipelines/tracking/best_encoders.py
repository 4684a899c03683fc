"""`best` and `best:N`: the best encoder of each backbone that an MLflow store holds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from emlnet.public_url import public_url
from emlnet.registry.mlflow_registry import PACKAGE, connect
from emlnet.training.state import is_better

BEST = re.compile(r"best(?::(\d+))?")
MOST_RUNS = 50_000
"""The most runs that MLflow returns at once."""


def number_of_best(encoders: Sequence[str]) -> int:
    """Return N of `best:N`; 0 for anything else."""
    found = BEST.fullmatch(encoders[0]) if len(encoders) == 1 else None
    return int(found[1] or 0) if found else 0


def resolve_best(
    encoders: Sequence[str], tracking_uri: str, data_digest: str, metric: str
) -> tuple[str, ...]:
    """Return the encoders as given; for `best` and `best:N` the best run of each backbone.

    data_digest: digest of the encoders' training data.  metric: validation metric to compare them
    by.
    Raises ValueError if the store has fewer than N.
    """
    if len(encoders) != 1 or BEST.fullmatch(encoders[0]) is None:
        return tuple(encoders)
    found = best_encoders(tracking_uri, data_digest, metric)
    wanted = number_of_best(encoders)
    if wanted > len(found):
        raise ValueError(f"best:{wanted} needs {wanted} backbones, the store has {len(found)}")
    return tuple(found)


def best_encoders(tracking_uri: str, data_digest: str, metric: str) -> list[str]:
    """Return the best run of each backbone on a data set, best first.

    Only finished runs with a packaged model count.  Raises ValueError if there is none.
    """
    client = connect(tracking_uri)
    order = "ASC" if is_better({metric: 0.0}, {metric: 1.0}, metric) else "DESC"
    runs = client.search_runs(
        [found.experiment_id for found in client.search_experiments()],
        f"tags.stage = 'encoder' and tags.data_digest = '{data_digest}' "
        "and attributes.status = 'FINISHED'",
        order_by=[f"metrics.best_{metric} {order}"],
        max_results=MOST_RUNS,
    )
    best: dict[str, str] = {}
    for run in runs:
        backbone, value = run.data.tags.get("backbone", ""), run.data.metrics.get(f"best_{metric}")
        if backbone in best or value is None or not client.list_artifacts(run.info.run_id, PACKAGE):
            continue
        best[backbone] = run.info.run_id
        print(f"best {backbone}: run {run.info.run_id}, val {metric} {value:.4f}", flush=True)
    if not best:
        raise ValueError(
            f"{public_url(tracking_uri)} has no finished encoder of the data set with digest "
            f"{data_digest[:12]}; train one with `python -m pipelines encoder`"
        )
    return list(best.values())
