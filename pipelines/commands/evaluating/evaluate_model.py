"""`python -m pipelines evaluate`: score a model beside its encoders and the baselines."""

from __future__ import annotations

from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from emlnet.registry import mlflow_registry, model_sources
from pipelines.commands.evaluating.scoring import ScoringCommand
from pipelines.config.options import StoreOptions
from pipelines.evaluation import score_table
from pipelines.evaluation.html_report import REPORT
from pipelines.evaluation.score_table import ScoreTable
from pipelines.evaluation.sources import MODEL, ModelSource
from pipelines.registry import promotion
from pipelines.tracking.mlflow_runs import Tracker


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(ScoringCommand):
    """Score a model, its encoders and the baselines on a split; write a report."""

    model: str
    """Folder of a model, models:/emlnet@ALIAS, models:/emlnet/VERSION or runs:/RUN_ID."""
    flip: bool = False
    """Average each map with that of the mirrored picture."""
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)


def run(command: EvaluateCommand) -> ScoreTable:
    """Score a model; log scores and report with the MLflow run that made it, if any."""
    uri = command.tracking.uri
    with command.open_data() as reader:
        model = model_sources.load(command.model, tracking_uri=uri).model
        source = ModelSource(model=model, flip=command.flip)
        scores = command.score(source, command.model, reader, flip=command.flip)
        folder = command.report(scores, source, command.model, reader)
    if run_id := find_run(command.model, uri):
        tracker = Tracker(uri=uri)
        for name in (score_table.PARQUET, score_table.JSON, REPORT):
            tracker.log_file(run_id, folder / name, promotion.FOLDER)
        tags = tracker.client.get_run(run_id).data.tags
        is_own = tags.get("data_digest") == scores.about["data_digest"]
        if is_own and command.split == "val" and not command.density_maps:
            tracker.log_metrics(run_id, score_table.as_metrics(scores.means[MODEL]))
        print(f"logged with MLflow run {run_id}, under {promotion.FOLDER}/", flush=True)
    return scores


def find_run(model: str, uri: str) -> str | None:
    """Return the MLflow run that made a model, None for a folder."""
    is_registered = model.startswith(("models:/", "runs:/"))
    return mlflow_registry.find_run(model, uri) if is_registered else None
