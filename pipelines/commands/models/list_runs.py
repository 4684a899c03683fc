"""`python -m pipelines runs`: list MLflow runs, with MLflow's own filter syntax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from emlnet.metrics.saliency_metrics import HEADLINES
from emlnet.registry.mlflow_registry import connect
from pipelines.config.options import StoreOptions

if TYPE_CHECKING:
    import pandas as pd


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
    """List only the runs of this MLflow experiment; default: of all experiments."""
    num: int = 20
    """Rows to show."""
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)


def run(command: RunsCommand) -> int:
    """Print the table; return 1 if no run matches.

    Raises ValueError for an unknown experiment or metric, MlflowException for a wrong filter.
    """
    import mlflow
    import pandas as pd

    known = sorted(e.name for e in connect(command.tracking.uri).search_experiments())
    if command.experiment not in (None, *known):
        raise ValueError(f"unknown experiment {command.experiment!r}; known: {', '.join(known)}")
    mlflow.set_tracking_uri(command.tracking.uri)
    runs = mlflow.search_runs(
        experiment_names=[command.experiment] if command.experiment else known,
        filter_string=command.filter,
        order_by=list(command.order_by),
        max_results=command.num + 1,
    )
    if runs.empty:
        print("no run matches the filter")
        return 1
    tags = ("mlflow.runName", "data", "stage", "backbone")
    runs = runs.reindex(columns=[*runs, *({f"tags.{tag}" for tag in tags} - {*runs})])
    table = pd.DataFrame(
        {
            "run": runs["run_id"],
            "name": runs["tags.mlflow.runName"],
            "status": runs["status"].str.lower(),
            "data": runs["tags.data"],
            "stage": runs["tags.stage"],
            "backbone": runs["tags.backbone"].astype("string").str.slice(0, 30),
            "started (UTC)": runs["start_time"].dt.strftime("%m-%d %H:%M"),
            **{name: find_metric(runs, name) for name in command.columns},
        }
    )
    shown = table.head(command.num)
    print(shown.to_string(index=False, na_rep="-", float_format="{:.3f}".format))
    if len(table) > command.num:
        print("there are more; --num shows them")
    print("scores: from `evaluate` on val; if there are none, from the best epoch, not mirrored")
    return 0


def find_metric(runs: pd.DataFrame, name: str) -> pd.Series[float]:
    """Return each run's metric `name`, else `scores/<name>`, else `best_<name>`.

    Raises ValueError for an unknown metric.
    """
    best = f"best_{name.removeprefix('mit_')}"
    names = [f"metrics.{known}" for known in (name, f"scores/{name}", best)]
    if name.removeprefix("scores/") not in HEADLINES and not {*names} & {*runs}:
        metrics = sorted(
            str(c).removeprefix("metrics.") for c in runs if str(c).startswith("metrics.")
        )
        listed = ", ".join(m for m in metrics if not m.startswith("system/"))
        raise ValueError(f"unknown metric {name!r}; known: {listed or 'none'}")
    return runs.reindex(columns=names).bfill(axis="columns").iloc[:, 0]
