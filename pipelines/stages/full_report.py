"""What `full` leaves behind and prints: scores, the report, and what to do next."""

from __future__ import annotations

from typing import Any

from emlnet.inference import package
from emlnet.registry import mlflow_registry
from pipelines.evaluation import score_table
from pipelines.evaluation.html_report import REPORT, write_report
from pipelines.evaluation.sources import ModelSource
from pipelines.registry.publish import Published
from pipelines.stages.run_context import RunContext
from pipelines.tracking import run_folder
from pipelines.tracking.run_folder import StageResult
from shards.files.manifest import Manifest
from shards.read.reader import ShardReader


def write(
    context: RunContext,
    scores: score_table.Table,
    best: StageResult,
    published: Published,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Write scores and report into the run's folder and to MLflow; return scores.json's content."""
    folder, tracker, run_id = context.folder, context.tracker, context.parent
    assert run_id is not None
    reader, flip = ShardReader(context.data[0], "val"), bool(scores.about["flip"])
    report = {
        **scores.as_json(),
        "seconds": seconds,
        "best": best.name,
        "package": str(best.package),
        "run_id": run_id,
        "version": published.version,
        "promotion": published.reason,
    }
    score_table.write_parquet(folder / score_table.PARQUET, scores)
    run_folder.write_json(folder / score_table.JSON, report)
    title = f"Scores of {folder.name} on {reader.manifest.name}/val"
    model = ModelSource(model=package.load(best.package).model, flip=flip)
    write_report(folder / REPORT, scores, title, model, reader)
    for file in (score_table.PARQUET, score_table.JSON, REPORT):
        tracker.file(run_id, folder / file)
    tracker.metrics(run_id, score_table.as_metrics(report["scores"][best.name]))
    tracker.describe(run_id, describe(report, context.manifest))
    return report


def describe(report: dict[str, Any], manifest: Manifest) -> str:
    """Describe what came out, in words and a table, for the MLflow run."""
    counts = ", ".join(f"{len(split.samples)} {name}" for name, split in manifest.splits.items())
    times = ", ".join(f"{name} {value:.0f} s" for name, value in report["seconds"].items())
    minutes = report["seconds"]["all"] / 60
    return (
        f"Trained on **{manifest.name}** ({counts} pictures) in {minutes:.0f} minutes. "
        f"Best on val: **{report['best']}**, registered as version {report['version']}: "
        f"{report['promotion']}.\n\n{score_table.markdown(report['scores'])}\n\nTime: {times}."
    )


def print_summary(report: dict[str, Any]) -> None:
    """Print what came out."""
    print(f"\n{score_table.text(report['scores'])}\n")
    version = f"models:/{mlflow_registry.NAME}/{report['version']}"
    print(f"best: {report['best']}; {version}, {report['promotion']}")
    times = ", ".join(f"{name} {value:.0f}" for name, value in report["seconds"].items())
    print(f"seconds: {times}", flush=True)
