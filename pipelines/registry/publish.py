"""Register a model, and promote it if it beats the champion."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

import emlnet
from emlnet.inference import package
from emlnet.metrics.saliency_metrics import HEADLINES, METRICS
from emlnet.registry.mlflow_registry import CHAMPION, DIGEST_TAG, NAME, PACKAGE
from pipelines.config.identity import slug
from pipelines.evaluation.compare import METRIC
from pipelines.evaluation.score_table import ScoreTable
from pipelines.registry.aliases import CHALLENGER, data_alias
from pipelines.registry.promotion import Promotion, keep_scores, promote
from pipelines.tracking.mlflow_runs import Tracker
from shards.read.reader import ShardReader

DESCRIPTION = (
    "Where people look in a picture. `emlnet pull FOLDER` fetches the version that is `champion`; "
    "a version's description is its model card, its tags are its scores, its licences, and whether "
    "it was promoted."
)
PACKAGES = ["torch", "torchvision", "timm", "safetensors", "numpy", "pillow", "filelock", "tqdm"]
"""Packages that a server of the registered model needs, in addition to MLflow."""


def publish(
    folder: Path,
    tracker: Tracker,
    run_id: str,
    scores: ScoreTable,
    reader: ShardReader,
    flip: bool,
    metric: str = METRIC,
) -> Promotion:
    """Register a packaged model as a new version of models:/emlnet, with its scores as tags.

    folder: the package.  run_id: its run, which keeps the scores per image.  scores: this model's
    scores on the reader's split.
    The version becomes `champion` if there is none, or if the 95 % interval of its gain over the
    champion in `metric` is above 0; else `challenger`.  The same rule gives it the alias of its
    data set.  A second call, as after a crash, registers nothing twice.
    """
    client = tracker.client
    described = package.read_description(folder)
    weights, about = described.files[package.WEIGHTS], described.about
    version = str(register(folder, str(about.get("name") or "model"), tracker, run_id))
    scores = keep_scores(scores, tracker, run_id, weights, reader, flip)
    (estimates,) = scores.estimates.values()
    tags = {
        "weights_sha256": weights,
        "data": reader.manifest.name,
        "data_digest": reader.manifest.digest,
        "split": reader.split,
        "flip": str(flip),
        DIGEST_TAG: package.file_digest(folder / package.MODEL),
        "licence": package.licence_of(about),
        "data_licence": package.licence_of(about.get("data") or {}),
        **{f"score_{k}": f"{v.mean:.6f}" for k, v in estimates.items() if k in METRICS},
        **{f"interval_{k}": str(estimates[k]) for k in HEADLINES if k in estimates},
    }
    for name, value in tags.items():
        client.set_model_version_tag(NAME, version, name, value)
    decision = promote(CHAMPION, version, scores, reader, flip, tracker, metric)
    alias = CHAMPION if decision.promoted else CHALLENGER
    if not decision.promoted:
        client.set_registered_model_alias(NAME, CHALLENGER, version)
    reason = f"{alias}: {decision.reason}"
    client.set_model_version_tag(NAME, version, "promotion", reason)
    best_on_data = data_alias(reader.manifest.name)
    if best_on_data not in (CHAMPION, CHALLENGER):
        promote(best_on_data, version, scores, reader, flip, tracker, metric)
    return replace(decision, reason=reason)


def register(folder: Path, name: str, tracker: Tracker, run_id: str) -> int:
    """Log a package as an MLflow model of its run and register it, once; return the version.

    name: shown on MLflow's pages.
    """
    client = tracker.client
    known = client.search_model_versions(f"name = '{NAME}' and run_id = '{run_id}'")
    version = int(known[0].version) if known else _log(folder, name, tracker, run_id)
    client.update_registered_model(NAME, DESCRIPTION)
    card = folder / package.CARD
    if card.is_file():
        client.update_model_version(NAME, str(version), card.read_text())
    return version


def _log(folder: Path, name: str, tracker: Tracker, run_id: str) -> int:
    """Log a package as an MLflow model of its run, and register it; return the version."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema([ColSpec(DataType.string, "saliency_png")]),
        params=ParamSchema([ParamSpec("flip", DataType.boolean, False)]),
    )
    mlflow.set_tracking_uri(tracker.uri)
    mlflow.set_registry_uri(tracker.uri)
    ended = tracker.client.get_run(run_id).info.end_time
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*type hint")
        logged = mlflow.pyfunc.log_model(
            name=slug(name, keep="-_"),
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={PACKAGE: str(folder)},
            code_paths=[str(Path(emlnet.__file__).parent)],
            # The installed versions; PyPI has no local part such as +cpu.
            pip_requirements=[
                f"{name}=={installed_version(name).partition('+')[0]}" for name in PACKAGES
            ],
            signature=signature,
            input_example=(example(), {"flip": False}),
            registered_model_name=NAME,
        )
    if ended:  # Keep the end, or the run's duration would include the time until now.
        tracker.client.set_terminated(run_id, "FINISHED", ended)
    return int(logged.registered_model_version)


def show_version(tracker: Tracker, version: int, run_id: str) -> None:
    """Link a registered version from the page of a run that did not log its model."""
    from mlflow.entities import LoggedModelOutput

    client = tracker.client
    model_id = client.get_model_version(NAME, str(version)).source.removeprefix("models:/")
    outputs = client.get_run(run_id).outputs
    if model_id not in {output.model_id for output in outputs.model_outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])


def example() -> pd.DataFrame:
    """Return an example input of the model: one row with a small PNG."""
    y, x = np.mgrid[:48, :64]
    spot = np.exp(-((x - 40) ** 2 + (y - 20) ** 2) / 60)[..., None]
    picture = Image.fromarray((60 + spot * (180, 120, 20)).astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return pd.DataFrame({"image": [file.getvalue()]})
