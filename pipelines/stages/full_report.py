"""The files that `full` leaves behind, and the summary that it prints."""

from __future__ import annotations

import shlex
from typing import Any

from emlnet.inference import package
from emlnet.public_url import public_url
from emlnet.registry import mlflow_registry
from pipelines.evaluation import score_table
from pipelines.evaluation.html_report import REPORT, write_report
from pipelines.evaluation.sources import ModelSource
from pipelines.registry.promotion import Promotion
from pipelines.registry.publish import show_version
from pipelines.stages.run_context import RunContext
from pipelines.tracking import run_folder
from pipelines.tracking.run_folder import StageResult
from shards.files.manifest import Manifest
from shards.read.reader import ShardReader


def write_report_files(
    context: RunContext,
    scores: score_table.ScoreTable,
    best: StageResult,
    published: Promotion,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Write scores and report to the run's folder and MLflow; return scores.json's content."""
    folder, tracker, run_id = context.folder, context.tracker, context.parent
    assert run_id is not None
    reader = ShardReader(context.data[0], "val")
    report = {
        **scores.as_json(),
        "seconds": seconds,
        "best": best.name,
        "package": str(best.package),
        "report": str(folder / REPORT),
        "run_id": run_id,
        "run": run_address(tracker.uri, tracker.experiment_id, run_id),
        "store": public_url(tracker.uri),
        "version": published.version,
        "promotion": published.reason,
    }
    score_table.write_parquet(folder / score_table.PARQUET, scores)
    run_folder.write_json(folder / score_table.JSON, report)
    write_report(
        folder / REPORT,
        scores.led_by(best.name),
        f"{best.name}, the best of {folder.name} on {reader.manifest.name}/val",
        ModelSource(model=package.load(best.package).model, flip=bool(scores.about["flip"])),
        reader,
    )
    for file in (score_table.PARQUET, score_table.JSON, REPORT):
        tracker.log_file(run_id, folder / file)
    tracker.log_metrics(run_id, score_table.as_metrics(report["scores"][best.name]))
    tracker.describe(run_id, describe(report, context.manifest))
    show_version(tracker, published.version, run_id)
    return report


def describe(report: dict[str, Any], manifest: Manifest) -> str:
    """Return the description of the MLflow run, in Markdown."""
    counts = ", ".join(f"{len(split.samples)} {name}" for name, split in manifest.splits.items())
    times = ", ".join(f"{name} {value:.0f} s" for name, value in report["seconds"].items())
    minutes = report["seconds"]["all"] / 60
    return (
        f"Trained on **{manifest.name}** ({counts} pictures) in {minutes:.0f} minutes. "
        f"Best on val: **{report['best']}**, registered as version {report['version']}: "
        f"{report['promotion']}.\n\nScores on {report['data']}/val{mirrored(report)}:\n\n"
        f"{score_table.markdown(report['scores'])}\n\nTime: {times}."
    )


def mirrored(report: dict[str, Any]) -> str:
    """Return a note if scores use mirroring; those after each epoch do not."""
    return ", mirrored (each map averaged with the mirrored picture's)" if report["flip"] else ""


def run_address(store: str, experiment_id: str, run_id: str) -> str:
    """Return the URL of an MLflow run; for a store without a server, how to open it."""
    public = public_url(store)
    if public.startswith(("http://", "https://")):
        return f"{public.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"{run_id}, on the pages of `python -m pipelines ui --tracking-uri {public}`"


def print_summary(report: dict[str, Any]) -> None:
    """Print the scores, the registered version and the next steps."""
    alias, _, reason = report["promotion"].partition(": ")
    name, version = mlflow_registry.NAME, str(report["version"])
    pull = ["emlnet", "pull", "FOLDER", "--tracking-uri", report["store"]]
    if alias != mlflow_registry.CHAMPION:
        pull += ["--version", version]
    times = ", ".join(f"{part} {value:.0f}" for part, value in report["seconds"].items())
    print(f"\nscores on {report['data']}/val{mirrored(report)}:")
    print(f"{score_table.text(report['scores'])}\n")
    print(f"registered {name} version {version}, now {alias} ({reason}): {report['best']}")
    print(f"  pull it:     {shlex.join(pull)}")
    print(f"  MLflow run:  {report['run']}")
    print(f"  report:      {report['report']}")
    print(f"  seconds:     {times}", flush=True)
