"""The stage that registers a model, and makes it the champion if it beats the one there is."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import emlnet
from emlnet import package, registry
from emlnet.state import better
from pipelines import evaluation
from pipelines.tracking import Tracker
from shards.reader import ShardReader

METRIC = "kl"
"""What decides between two models: `mit` KL on the split."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A registered version.  promoted: whether it became champion; reason: why, or why not."""

    version: int
    promoted: bool
    reason: str


def publish(
    folder: Path,
    tracker: Tracker,
    run_id: str,
    scores: dict[str, float],
    reader: ShardReader,
    flip: bool,
) -> Published:
    """Registers a packaged model as a new version of models:/emlnet, with its scores as tags.

    folder: the package.  run_id: its run.  scores: of the model on the reader's split, by metric.
    It becomes `champion` only if there is none, or it beats it on this very data.
    """
    client = tracker.client
    weights = package.read_description(folder)["files"][package.WEIGHTS]
    known = client.search_model_versions(f"name='{registry.NAME}'")
    same = [v for v in known if v.tags.get("weights_sha256") == weights and v.run_id == run_id]
    version = int(same[0].version) if same else _register(folder, tracker, run_id)
    digest = reader.manifest.digest
    tags = {
        "data": reader.manifest.name,
        "data_digest": digest,
        "split": reader.split,
        "flip": str(flip),
        "weights_sha256": weights,
        **{f"score_{name}": f"{value:.6f}" for name, value in scores.items()},
    }
    for name, value in tags.items():
        client.set_model_version_tag(registry.NAME, str(version), name, value)
    holder = registry.champion(client)
    promoted, reason = _compare(version, holder, scores, reader, flip, tracker)
    if promoted:
        client.set_registered_model_alias(registry.NAME, registry.CHAMPION, str(version))
    client.set_model_version_tag(registry.NAME, str(version), "promotion", reason)
    return Published(version=version, promoted=promoted, reason=reason)


def _compare(
    version: int,
    holder: Any | None,
    scores: dict[str, float],
    reader: ShardReader,
    flip: bool,
    tracker: Tracker,
) -> tuple[bool, str]:
    """Whether the new model beats the champion, and the reason in words."""
    if holder is None:
        return True, "champion: there was none"
    if int(holder.version) == version:
        return True, str(holder.tags.get("promotion", "champion"))
    tags = holder.tags
    same = (tags.get("data_digest"), tags.get("split"), tags.get("flip")) == (
        reader.manifest.digest,
        reader.split,
        str(flip),
    )
    if same and f"score_{METRIC}" in tags:
        held = float(tags[f"score_{METRIC}"])
    else:
        print(f"champion (version {holder.version}) was scored on other data: scoring it on this")
        with tempfile.TemporaryDirectory() as scratch:
            pulled = registry.pull(
                Path(scratch) / "model", tracker.uri, version=int(holder.version)
            )
            model = package.load(pulled).model
        held = evaluation.evaluate(model, reader, flip, name="champion")["champion"][METRIC]
    wins = better(scores, {METRIC: held}, METRIC)
    words = f"{METRIC} {scores[METRIC]:.4f} against {held:.4f} of version {holder.version}"
    return wins, f"champion: {words}" if wins else f"not champion: {words}"


def _register(folder: Path, tracker: Tracker, run_id: str) -> int:
    """Logs the package as an MLflow model of the run and registers it; returns the version."""
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
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        # The signature is ours, not one that an example would tell.
        warnings.filterwarnings("ignore", message=".*input example")
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("serving.py")),
            artifacts={registry.PACKAGE: str(folder)},
            code_paths=[str(Path(emlnet.__file__).parent)],
            pip_requirements=["torch", "torchvision", "timm", "safetensors", "numpy", "pillow"],
            signature=signature,
        )
    return int(mlflow.register_model(logged.model_uri, registry.NAME).version)
