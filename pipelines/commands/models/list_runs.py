"""`python -m pipelines runs`: MLflow runs as a table, in MLflow's own filter syntax."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from emlnet.metrics.saliency_metrics import HEADLINES
from emlnet.registry.mlflow_registry import connect
from pipelines.config.options import StoreOptions

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True, kw_only=True)
class RunsCommand:
    """List MLflow runs as a table, the best first."""

    filter: str = ""
    """MLflow's filter, e.g. "tags.stage = 'encoder' and metrics.best_nss > 3"; a metric with a
    slash is written metrics.`scores/mit_kl`."""
    order_by: tuple[str, ...] = ("metrics.`scores/tuebingen_ig` DESC",)
    """MLflow's order, e.g. "metrics.best_kl ASC" or "attributes.start_time DESC"."""
    columns: tuple[str, ...] = HEADLINES
    """Metrics to show: as MLflow names them, or as scores and reports do."""
    experiment: str | None = None
    """Data set, that is MLflow experiment; default: all."""
    num: int = 20
    """Rows to show."""
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)


def run(command: RunsCommand) -> int:
    """Print the table; return 1 when no run fits.

    Raises ValueError for an unknown experiment or metric, MlflowException for a wrong filter.
    """
    import pandas as pd

    client = connect(command.tracking.uri)
    experiments = {e.name: e.experiment_id for e in client.search_experiments()}
    if command.experiment is not None and command.experiment not in experiments:
        listed = ", ".join(sorted(experiments))
        raise ValueError(f"unknown experiment {command.experiment!r}; known: {listed}")
    searched = [experiments[command.experiment]] if command.experiment else [*experiments.values()]
    runs = client.search_runs(
        searched, command.filter, max_results=command.num, order_by=list(command.order_by)
    )
    if not runs:
        print("no run fits")
        return 1
    for column in command.columns:
        known = column.removeprefix("scores/") in HEADLINES
        if not known and all(find_metric(run, column) is None for run in runs):
            metrics = {name for run in runs for name in run.data.metrics}
            listed = ", ".join(sorted(n for n in metrics if not n.startswith("system/")))
            raise ValueError(f"unknown metric {column!r}; known: {listed or 'none'}")
    rows = [{**describe(run), **{c: find_metric(run, c) for c in command.columns}} for run in runs]
    table = pd.DataFrame(rows).astype(dict.fromkeys(command.columns, float))
    print(table.to_string(index=False, na_rep="-", float_format="{:.3f}".format))
    if runs.token:
        print("there are more; --num shows them")
    return 0


def describe(run: Run) -> dict[str, str]:
    """The columns of a run that are not metrics."""
    tags, info = run.data.tags, run.info
    backbone = tags.get("backbone", "-")
    return {
        "run": info.run_id,
        "name": info.run_name,
        "status": info.status.lower(),
        "data": tags.get("data", "-"),
        "stage": tags.get("stage", "-"),
        "backbone": backbone if len(backbone) <= 30 else f"{backbone[:27]}...",
        "started (UTC)": f"{datetime.fromtimestamp(info.start_time / 1000, UTC):%m-%d %H:%M}",
    }


def find_metric(run: Run, name: str) -> float | None:
    """A metric by its full name, else a score of the evaluation, else of the best epoch on val."""
    for known in (name, f"scores/{name}", f"best_{name.removeprefix('mit_')}"):
        if known in run.data.metrics:
            return float(run.data.metrics[known])
    return None
