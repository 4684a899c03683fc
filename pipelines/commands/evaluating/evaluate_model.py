"""`python -m pipelines evaluate`: score a model beside its encoders and the baselines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from emlnet.registry import mlflow_registry
from pipelines.commands.evaluating.scoring import (
    Scoring,
    open_data,
    open_model,
    score_source,
    write_scores,
)
from pipelines.config.options import ClusterOptions, StoreOptions
from pipelines.evaluation import score_table
from pipelines.evaluation.html_report import REPORT
from pipelines.evaluation.score_table import ScoreTable
from pipelines.evaluation.sources import MODEL
from pipelines.registry import promotion
from pipelines.tracking.mlflow_runs import Tracker


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Score a model on a split, beside its encoders, baselines and people; writes a report."""

    data: Path
    """Folder of shards, or a raw folder, which is packed for the time being."""
    model: str
    """Folder of a model, models:/emlnet@ALIAS, models:/emlnet/VERSION or runs:/RUN_ID."""
    flip: bool = False
    """Average each map with that of the mirrored picture."""
    scoring: OmitArgPrefixes[Scoring] = field(default_factory=Scoring)
    compute: OmitArgPrefixes[ClusterOptions] = field(default_factory=ClusterOptions)
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)


def run(command: EvaluateCommand) -> ScoreTable:
    """Score a model; if an MLflow run made it, log the scores and the report with that run."""
    with open_data(command.data, command.scoring.split) as reader:
        source = open_model(command.model, command.flip, command.tracking)
        scores = score_source(
            source, MODEL, command.model, reader, command.scoring, command.compute, command.flip
        )
        folder = write_scores(scores, source, reader, command.scoring, command.model)
    run_id = _run_of(command.model, command.tracking)
    if run_id:
        tracker = Tracker(uri=command.tracking.uri, experiment_id="")
        for name in (score_table.PARQUET, score_table.JSON, REPORT):
            tracker.file(run_id, folder / name, promotion.FOLDER)
        tags = tracker.client.get_run(run_id).data.tags
        is_own = tags.get("data_digest") == scores.about["data_digest"]
        if is_own and command.scoring.split == "val" and not command.scoring.density_maps:
            tracker.metrics(run_id, score_table.as_metrics(scores.means[MODEL]))
        print(f"logged with MLflow run {run_id}, under {promotion.FOLDER}/", flush=True)
    return scores


def _run_of(uri: str, store: StoreOptions) -> str | None:
    """Return the MLflow run that made a model, None for a folder."""
    if uri.startswith("runs:/"):
        return uri.removeprefix("runs:/").strip("/")
    if not uri.startswith("models:/"):
        return None
    return str(mlflow_registry.find_uri(mlflow_registry.connect(store.uri), uri).run_id)
