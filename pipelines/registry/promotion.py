"""Promotion: a version takes an alias if it beats the holder image by image."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emlnet.inference import package
from emlnet.registry import mlflow_registry
from pipelines.evaluation import compare, evaluate
from pipelines.evaluation.compare import METRIC
from pipelines.evaluation.score_table import ScoreTable, read_parquet, write_parquet
from pipelines.evaluation.sources import MODEL, ModelSource
from pipelines.registry import aliases
from pipelines.tracking.mlflow_runs import Tracker
from shards.read.reader import ShardReader

FOLDER = "scores"
"""Artifact folder of a run's scores per image."""


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """The decision on an alias: whether the version got it, and why."""

    version: int
    promoted: bool
    reason: str


def promote(
    alias: str,
    version: str,
    scores: ScoreTable,
    reader: ShardReader,
    flip: bool,
    tracker: Tracker,
    metric: str = METRIC,
) -> Promotion:
    """Give a version an alias if its gain over the holder has a 95 % interval above 0.

    scores: the version's scores on the reader's split.  flip: each map was averaged with the
    mirrored picture's.
    """
    client = tracker.client
    past = aliases.history(client, alias)
    if past and past[-1]["version"] == version:
        return Promotion(version=int(version), promoted=True, reason=past[-1]["reason"])
    is_better, reason = True, "the first"
    if past:
        holder = past[-1]["version"]
        held = mlflow_registry.find_version(client, version=int(holder))
        (found,) = compare.compare(scores, scores_of(held, reader, flip, tracker), [metric])
        gain, is_better = found.gain, found.better
        reason = (
            f"{metric} {found.first:.4f} against {found.second:.4f} of version {holder}, a gain of "
            f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] on {gain.num} images of "
            f"{reader.manifest.name}/{reader.split}; the 95 % interval is "
            f"{'' if is_better else 'not '}above 0"
        )
    if is_better:
        aliases.set_alias(client, alias, version, reason, past)
    return Promotion(version=int(version), promoted=is_better, reason=reason)


def keep_scores(
    scores: ScoreTable, tracker: Tracker, run_id: str, weights: str, reader: ShardReader, flip: bool
) -> ScoreTable:
    """Log a model's scores per image with its run, where `scores_of` finds them."""
    kept = replace(scores, about={**scores.about, "weights_sha256": weights, "flip": flip})
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / _file_name(reader, flip)
        write_parquet(path, kept)
        tracker.log_file(run_id, path, FOLDER)
    return kept


def scores_of(version: Any, reader: ShardReader, flip: bool, tracker: Tracker) -> ScoreTable:
    """Return a version's scores per image on a split: from its run, else computed now."""
    from mlflow.exceptions import MlflowException

    weights, name = version.tags.get("weights_sha256"), f"version {version.version}"
    with tempfile.TemporaryDirectory() as scratch:
        with suppress(MlflowException, OSError, ValueError):  # The run has no scores.
            file = f"{FOLDER}/{_file_name(reader, flip)}"
            path = tracker.client.download_artifacts(version.run_id, file, scratch)
            kept = read_parquet(Path(path))
            if weights and kept.about.get("weights_sha256") == weights:
                return kept
        print(f"{name} has no scores on these images: scoring it now")
        pulled = mlflow_registry.pull(
            Path(scratch) / "model", tracker.uri, version=int(version.version)
        )
        source = ModelSource(model=package.load(pulled).model, flip=flip, own_map_only=True)
        scores = evaluate.evaluate([source], reader, title=name, with_baselines=False)
    return scores.renamed(MODEL, name)


def _file_name(reader: ShardReader, flip: bool) -> str:
    mirrored = "-flip" if flip else ""
    return f"{reader.split}-{reader.manifest.digest[:12]}{mirrored}.parquet"
