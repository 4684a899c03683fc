"""`python -m pipelines ui | runs`: look at what MLflow holds, in a browser or here."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import eq, ge, gt, le, lt, ne
from typing import TYPE_CHECKING, Any

from tyro.conf import OmitArgPrefixes

from emlnet.registry.mlflow_registry import connect
from pipelines.config.options import StoreOptions
from pipelines.evaluation.score_table import METRICS, SHORT, lower_is_better

if TYPE_CHECKING:
    from mlflow.entities import Run

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": le, ">=": ge, "!=": ne, "<": lt, ">": gt, "=": eq,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class UiCommand:
    """Open MLflow's pages over a store: runs, curves, pictures, the registry."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reached from this machine alone."""
    port: int = 5000
    """Port to listen on."""
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)


@dataclass(frozen=True, kw_only=True)
class RunsCommand:
    """List runs as a table, the best first."""

    sort: str = "tuebingen_ig"
    """Metric to sort by, as MLflow names it or without `scores/`, `val_` or `best_`; or `date`."""
    where: tuple[str, ...] = ()
    """Conditions that all hold: a metric, tag, parameter or `status` against a value, such as
    "mit_kl<0.4", "stage=encoder", "backbone!=tiny", "lr>=0.001"."""
    columns: tuple[str, ...] = SHORT
    """Metrics to show."""
    experiment: str | None = None
    """Data set, that is MLflow experiment; default: all."""
    num: int = 20
    """Rows to show."""
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        for condition in self.where:
            parse_condition(condition)


def ui(command: UiCommand) -> int:
    """Runs MLflow's server until it is interrupted; its exit code."""
    uri = command.tracking.uri
    connect(uri)
    if uri.startswith(("http://", "https://")):
        print(f"an MLflow server is there already: {uri}")
        return 0
    # MLflow opens pages for agents and prompts unless it is told which kind of work is done here.
    page = f"http://{command.host}:{command.port}/#/experiments?workflowType=machine_learning"
    print(f"MLflow of {uri}: {page}", flush=True)
    words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    words += ["--host", command.host, "--port", str(command.port), "--workers", "1"]
    # Without MLflow's job workers it starts twice as fast, in a quarter of the memory.
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",  # They speak of MLflow's own insides.
        **os.environ,
    }
    try:
        return subprocess.run(words, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 0


def list_runs(command: RunsCommand) -> int:
    """Prints the table; 1 when no run fits.

    Raises ValueError for an experiment that is not there.
    """
    client = connect(command.tracking.uri)
    experiments = {e.name: e.experiment_id for e in client.search_experiments()}
    if command.experiment is not None and command.experiment not in experiments:
        raise ValueError(
            f"no experiment {command.experiment!r}; there are {', '.join(sorted(experiments))}"
        )
    names = {number: name for name, number in experiments.items()}
    wanted = [experiments[command.experiment]] if command.experiment else list(names)
    found: list[Run] = []
    token: str | None = ""
    while token is not None:
        page = client.search_runs(wanted, max_results=1000, page_token=token or None)
        found += page
        token = page.token or None
    conditions = [parse_condition(condition) for condition in command.where]
    check_names(found, [name for name in (command.sort, *command.columns) if name != "date"])
    check_names(found, [name for name, *_ in conditions if name != "status"], all_kinds=True)
    kept = [run for run in found if all(holds(run, *condition) for condition in conditions)]
    kept = sort_runs(kept, command.sort)
    if not kept:
        print(f"none of {len(found)} runs fits")
        return 1
    print(table(kept[: command.num], command.columns, names))
    if len(kept) > command.num:
        print(f"{len(kept) - command.num} more; --num shows them")
    return 0


def parse_condition(text: str) -> tuple[str, str, str]:
    """Name, operator and value of `name<value`.  Raises ValueError when it is none."""
    found = re.fullmatch(r"\s*([\w./ -]+?)\s*(<=|>=|!=|<|>|=)\s*([^<>=!\s].*?)\s*", text)
    if not found:
        raise ValueError(f"{text!r} is no condition; write one like mit_kl<0.4 or stage=encoder")
    return found[1], found[2], found[3]


def check_names(runs: Sequence[Run], names: Sequence[str], all_kinds: bool = False) -> None:
    """Raises ValueError for a name that is no metric of any run, nor, of all kinds, tag or such."""
    usual = {*METRICS, *(name.removeprefix("mit_") for name in METRICS)}
    known = {name for run in runs for name in run.data.metrics}
    if all_kinds:
        known |= {name for run in runs for name in (*run.data.tags, *run.data.params)}
    for name in names:
        if name not in usual | known and all(find_metric(run, name) is None for run in runs):
            listed = ", ".join(sorted(n for n in known if not n.startswith(("system/", "mlflow."))))
            raise ValueError(f"no run has {name!r}; there are {listed or 'no runs'}")


def holds(run: Run, name: str, operator: str, value: str) -> bool:
    """Whether a run's metric, tag, parameter or status is so; what it lacks is never so."""
    known: Any = find_metric(run, name)
    if known is None:
        known = run.data.tags.get(name) or run.data.params.get(name)
    if name == "status":
        known = run.info.status
    if known is None:
        return operator == "!="
    try:
        return OPERATORS[operator](float(known), float(value))
    except ValueError:
        return OPERATORS[operator](str(known), value)


def find_metric(run: Run, name: str) -> float | None:
    """A metric by its name; `mit_kl` or `kl` is the evaluation's, else the best epoch's on val."""
    bare = name.removeprefix("mit_")
    for known in (name, f"scores/{name}", f"scores/mit_{bare}", f"best_{bare}", f"val_{bare}"):
        value = run.data.metrics.get(known)
        if value is not None:
            return float(value)
    return None


def sort_runs(runs: Sequence[Run], by: str) -> list[Run]:
    """The best first, those without the metric last; by `date` the latest first."""
    if by == "date":
        return sorted(runs, key=lambda run: -run.info.start_time)
    sign = 1 if lower_is_better(f"_{by}") or by.endswith("seconds") else -1

    def key(run: Run) -> tuple[bool, float]:
        value = find_metric(run, by)
        missing = value is None or math.isnan(value)
        return missing, 0.0 if missing or value is None else sign * value

    return sorted(runs, key=key)


def table(runs: Sequence[Run], columns: Sequence[str], experiments: dict[str, str]) -> str:
    """A line a run: id, name, data set, stage, backbone, date, metrics."""
    short = [name.removeprefix("mit_").removeprefix("tuebingen_") for name in columns]
    head = ["run", "name", "data", "stage", "backbone", "date", *short]
    rows = [head]
    for run in runs:
        tags, info = run.data.tags, run.info
        began = datetime.fromtimestamp(info.start_time / 1000, UTC).strftime("%m-%d %H:%M")
        values = [find_metric(run, name) for name in columns]
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        status = "" if info.status == "FINISHED" else f" ({info.status.lower()})"
        backbone = tags.get("backbone", "-")
        rows.append(
            [
                info.run_id,
                f"{info.run_name}{status}",
                tags.get("data", experiments.get(info.experiment_id, "-")),
                tags.get("stage", "-"),
                backbone if len(backbone) <= 30 else f"{backbone[:27]}...",
                began,
                *shown,
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    texts = len(head) - len(columns)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
