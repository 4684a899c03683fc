"""The stage that registers a model, and makes it the champion if it beats the one there is."""

from __future__ import annotations

import io
import re
import tempfile
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import emlnet
from emlnet.inference import package
from emlnet.registry import mlflow_registry
from pipelines.evaluation import compare, evaluate
from pipelines.evaluation.compare import METRIC
from pipelines.evaluation.score_table import METRICS, SHORT, Table, read_parquet, write_parquet
from pipelines.evaluation.sources import MODEL, ModelSource
from pipelines.registry import aliases
from pipelines.registry.aliases import CHALLENGER
from pipelines.tracking.mlflow_runs import Tracker
from shards.read.reader import ShardReader

FOLDER = "scores"
"""Where among a run's artifacts its scores per image lie."""
DESCRIPTION = (
    "Where people look in a picture. `emlnet pull FOLDER` fetches the version that is `champion`; "
    "a version's description is its model card, its tags are its scores, licences, and why it "
    "holds an alias."
)


PACKAGES = ["torch", "torchvision", "timm", "safetensors", "numpy", "pillow", "filelock", "tqdm"]
"""Packages that a server of the registered model needs, beside MLflow."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A registered version.  promoted: whether it became champion; reason: why, or why not."""

    version: int
    promoted: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a comparison with the champion says, and the reason in words."""

    promoted: bool
    reason: str


def publish(
    folder: Path,
    tracker: Tracker,
    run_id: str,
    scores: Table,
    reader: ShardReader,
    flip: bool,
    metric: str = METRIC,
) -> Published:
    """Registers a packaged model as a new version of models:/emlnet, with its scores as tags.

    folder: the package.  run_id: its run, which keeps the scores per image.  scores: of the model
    alone, on the reader's split.
    It becomes `champion` if there is none, or if it is better than it by `metric` on these images
    with a 95 % interval above 0; else it becomes `challenger`.
    """
    client = tracker.client
    described = package.read_description(folder)
    weights, about = described.files[package.WEIGHTS], described.about
    name = str(about.get("name") or "model")
    known = client.search_model_versions(f"name='{mlflow_registry.NAME}'")
    same = [v for v in known if v.tags.get("weights_sha256") == weights and v.run_id == run_id]
    version = int(same[0].version) if same else _register(folder, name, tracker, run_id)
    scores = keep_scores(scores, tracker, run_id, weights, reader, flip)
    (estimates,) = scores.estimates().values()
    tags = {
        "data": reader.manifest.name,
        "data_digest": reader.manifest.digest,
        "split": reader.split,
        "flip": str(flip),
        "weights_sha256": weights,
        mlflow_registry.DIGEST_TAG: package.file_digest(folder / package.MODEL),
        "licence": package.licence_of(about),
        "data_licence": package.licence_of(about.get("data") or {}),
        **{f"score_{k}": f"{v.mean:.6f}" for k, v in estimates.items() if k in METRICS},
        **{f"interval_{k}": str(estimates[k]) for k in SHORT if k in estimates},
    }
    for name, value in tags.items():
        client.set_model_version_tag(mlflow_registry.NAME, str(version), name, value)
    verdict = contend(mlflow_registry.CHAMPION, str(version), scores, reader, flip, tracker, metric)
    if not verdict.promoted:
        client.set_registered_model_alias(mlflow_registry.NAME, CHALLENGER, str(version))
    client.set_model_version_tag(mlflow_registry.NAME, str(version), "promotion", verdict.reason)
    best = aliases.data_alias(reader.manifest.name)
    if best not in (mlflow_registry.CHAMPION, CHALLENGER):
        contend(best, str(version), scores, reader, flip, tracker, metric)
    return Published(version=version, promoted=verdict.promoted, reason=verdict.reason)


def contend(
    alias: str,
    version: str,
    scores: Table,
    reader: ShardReader,
    flip: bool,
    tracker: Tracker,
    metric: str = METRIC,
) -> Verdict:
    """Gives a version an alias if it beats the one that holds it, and says why, or why not.

    When another publisher hands the alias on meanwhile, the comparison is made anew.
    """
    client = tracker.client
    while True:
        held = aliases.holder(client, alias)
        found = mlflow_registry.find_version(client, version=int(held)) if held else None
        if held == version and found is not None:
            reason = found.tags.get(f"{alias}_reason") or f"{alias}: it was before"
            return Verdict(promoted=True, reason=str(reason))
        verdict = challenge(scores, found, reader, flip, tracker, metric)
        # Its words are of the alias that most contend for.
        reason = verdict.reason.replace(f"{mlflow_registry.CHAMPION}: ", f"{alias}: ", 1)
        verdict = Verdict(promoted=verdict.promoted, reason=reason)
        if not verdict.promoted or aliases.hand_over(client, alias, version, held, verdict.reason):
            return verdict


def challenge(
    scores: Table,
    holder: Any | None,
    reader: ShardReader,
    flip: bool,
    tracker: Tracker,
    metric: str = METRIC,
) -> Verdict:
    """Whether a model, by its scores per image, beats the version that is champion.

    holder: the champion's model version, None when there is none.
    """
    if holder is None:
        return Verdict(promoted=True, reason="champion: the first")
    held = scores_of(holder, reader, flip, tracker)
    (difference,) = compare.compare(scores, held, [metric])
    return decide(difference, f"version {holder.version}", reader)


def decide(difference: compare.Difference, holder: str, reader: ShardReader) -> Verdict:
    """The rule: better, with a 95 % interval above 0."""
    gain = difference.gain
    words = (
        f"{difference.metric} {difference.first:.4f} against {difference.second:.4f} of {holder}, "
        f"a gain of {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] on {gain.num} images of "
        f"{reader.manifest.name}/{reader.split}"
    )
    if difference.better:
        return Verdict(promoted=True, reason=f"champion: {words}; the 95 % interval is above 0")
    return Verdict(promoted=False, reason=f"challenger: {words}; the 95 % interval is not above 0")


def keep_scores(
    scores: Table, tracker: Tracker, run_id: str, weights: str, reader: ShardReader, flip: bool
) -> Table:
    """Logs a model's scores per image with its run, where `scores_of` finds them."""
    kept = evaluate.with_about(scores, weights_sha256=weights, flip=flip)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / _file_name(reader, flip)
        write_parquet(path, kept)
        tracker.file(run_id, path, FOLDER)
    return kept


def scores_of(version: Any, reader: ShardReader, flip: bool, tracker: Tracker) -> Table:
    """A registered version's scores per image on a split: those its run kept, or made now."""
    from mlflow.exceptions import MlflowException

    weights = version.tags.get("weights_sha256")
    with tempfile.TemporaryDirectory() as scratch:
        with suppress(MlflowException, OSError, ValueError):  # None kept, or no longer there.
            name = f"{FOLDER}/{_file_name(reader, flip)}"
            path = tracker.client.download_artifacts(version.run_id, name, scratch)
            kept = read_parquet(Path(path))
            if weights and kept.about.get("weights_sha256") == weights:
                return kept
        print(f"version {version.version} has no scores on these images: scoring it now")
        pulled = mlflow_registry.pull(
            Path(scratch) / "model", tracker.uri, version=int(version.version)
        )
        source = ModelSource(model=package.load(pulled).model, flip=flip, alone=True)
        scores = evaluate.evaluate(
            [source], reader, title=f"version {version.version}", with_baselines=False
        )
    return scores.renamed(MODEL, f"version {version.version}")


def _file_name(reader: ShardReader, flip: bool) -> str:
    how = "-flip" if flip else ""
    return f"{reader.split}-{reader.manifest.digest[:12]}{how}.parquet"


def _register(folder: Path, name: str, tracker: Tracker, run_id: str) -> int:
    """Logs the package as an MLflow model of the run and registers it; returns the version.

    name: of the model on MLflow's pages.
    """
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
            name=re.sub(r"[^A-Za-z0-9_-]+", "-", name) or "model",
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={mlflow_registry.PACKAGE: str(folder)},
            code_paths=[str(Path(emlnet.__file__).parent)],
            pip_requirements=PACKAGES,
            signature=signature,
            input_example=(example(), {"flip": False}),
        )
    # Logging a model ends the run anew; its duration is that of the training.
    tracker.client.set_terminated(run_id, end_time=ended)
    version = mlflow.register_model(logged.model_uri, mlflow_registry.NAME).version
    tracker.client.update_registered_model(mlflow_registry.NAME, DESCRIPTION)
    card = folder / package.CARD
    if card.is_file():
        tracker.client.update_model_version(mlflow_registry.NAME, version, card.read_text())
    return int(version)


def show_version(tracker: Tracker, version: int, run_id: str) -> None:
    """Show a registered version on the page of a run that did not log its model."""
    from mlflow.entities import LoggedModelOutput

    source = tracker.client.get_model_version(mlflow_registry.NAME, str(version)).source
    model_id = source.removeprefix("models:/")
    outputs = tracker.client.get_run(run_id).outputs
    if model_id not in {output.model_id for output in outputs.model_outputs}:
        tracker.client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])


def example() -> pd.DataFrame:
    """What the model is called with: one row, a small drawn picture as PNG."""
    y, x = np.mgrid[:48, :64]
    spot = np.exp(-((x - 40) ** 2 + (y - 20) ** 2) / 60)[..., None]
    picture = Image.fromarray((60 + spot * (180, 120, 20)).astype(np.uint8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return pd.DataFrame({"image": [file.getvalue()]})
