"""Encoders that an MLflow store holds: the best run of each backbone on a data set."""

from __future__ import annotations

import re

from emlnet.registry.mlflow_registry import PACKAGE, connect
from emlnet.training.state import better

BEST = re.compile(r"best(?::(\d+))?")


def is_best(encoders: tuple[str, ...]) -> bool:
    """Whether a command names encoders as `best` or `best:N`."""
    return len(encoders) == 1 and BEST.fullmatch(encoders[0]) is not None


def number_of_best(encoders: tuple[str, ...]) -> int:
    """N of `best:N`, 0 when there is none."""
    found = BEST.fullmatch(encoders[0]) if is_best(encoders) else None
    return int(found[1]) if found and found[1] else 0


def best_encoders(tracking_uri: str, data_digest: str, metric: str) -> list[str]:
    """The run of each backbone that is best by the metric on this very data, best first.

    Runs count that finished and hold a packaged model.  Raises ValueError when there is none.
    """
    client = connect(tracking_uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    criteria = (
        f"tags.stage = 'encoder' and tags.data_digest = '{data_digest}' "
        "and attributes.status = 'FINISHED'"
    )
    best: dict[str, tuple[float, str]] = {}
    token = None
    while True:
        page = client.search_runs(experiments, criteria, max_results=1000, page_token=token)
        for run in page:
            backbone = run.data.tags.get("backbone", "")
            value = run.data.metrics.get(f"best_{metric}")
            if value is None or not client.list_artifacts(run.info.run_id, PACKAGE):
                continue
            if backbone not in best or _wins(value, best[backbone][0], metric):
                best[backbone] = value, run.info.run_id
        token = page.token
        if not token:
            break
    if not best:
        raise ValueError(
            f"{tracking_uri} has no finished encoder of the data set with digest "
            f"{data_digest[:12]}; train one with `python -m pipelines encoder`"
        )
    ordered = sorted(best.items(), key=lambda item: item[1], reverse=_wins(1.0, 0.0, metric))
    for backbone, (value, run_id) in ordered:
        print(f"best {backbone}: run {run_id}, val {metric} {value:.4f}", flush=True)
    return [run_id for _, (_, run_id) in ordered]


def _wins(value: float, than: float, metric: str) -> bool:
    return better({metric: value}, {metric: than}, metric)
