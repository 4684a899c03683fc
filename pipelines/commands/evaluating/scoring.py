"""Options and steps that `evaluate`, `score` and `compare` share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emlnet.inference import package
from emlnet.public_url import public_url
from emlnet.registry import mlflow_registry
from pipelines.config.identity import digest, slug
from pipelines.config.options import ClusterOptions, StoreOptions
from pipelines.evaluation import evaluate, score_table
from pipelines.evaluation.html_report import REPORT, write_report
from pipelines.evaluation.score_maps import MapFiles
from pipelines.evaluation.score_table import ScoreTable
from pipelines.evaluation.sources import MapSource, ModelSource
from pipelines.ray_cluster import check_nodes, connection
from pipelines.tracking import run_folder
from shards.build.writer import build
from shards.files.manifest import MANIFEST
from shards.files.store import location
from shards.read.reader import ShardReader


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How maps are scored, and where the scores go."""

    split: str = "val"
    """Split to score."""
    density_maps: bool = False
    """Give each `tuebingen` metric the map of a density that is best for it, as the Tuebingen board
    does; takes seconds per image."""
    sigma: float | None = None
    """Sigma of the Gaussian that made the data's density maps, in pixels; default: estimated."""
    num_workers: int = 0
    """Ray tasks that score images at the same time; 0: as many as there are CPUs or GPUs."""
    out: Path | None = None
    """Folder for the results. Default: one under runs/; `compare` then writes nothing."""
    json: Path | None = None
    """Another file for the content of scores.json or comparison.json."""


@contextmanager
def open_data(data: Path, split: str) -> Iterator[ShardReader]:
    """Open a split of a folder of shards, or of a raw folder, which is packed first."""
    place = location(data)
    if isinstance(place, str) or (place / MANIFEST).is_file():
        yield ShardReader(place, split)
        return
    with tempfile.TemporaryDirectory(prefix="shards-") as scratch:
        print(f"packing {data}; `python -m shards build` does it once for all", flush=True)
        packed = Path(scratch) / "shards"
        build(data.absolute(), packed, skip_incomplete=True)
        yield ShardReader(packed, split)


def open_model(uri: str, flip: bool, store: StoreOptions, alone: bool = False) -> ModelSource:
    """Load a model to score.

    flip: average each map with the mirrored picture's.  alone: without its encoders.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = mlflow_registry.resolve(uri, store.uri, Path(scratch) / "model")
        return ModelSource(model=package.load(folder).model, flip=flip, alone=alone)


def score_source(
    source: MapSource,
    row: str,
    name: str,
    reader: ShardReader,
    scoring: Scoring,
    compute: ClusterOptions,
    flip: bool = False,
    with_baselines: bool = True,
) -> ScoreTable:
    """Score a source whose first row is called `row`.  name: what the user calls it."""
    connection.connect(compute)
    check_nodes.check([reader.folder])
    notes = source.notes if isinstance(source, MapFiles) else []
    return evaluate.evaluate(
        [source],
        reader,
        title=f"scores of {row}",
        with_baselines=with_baselines,
        best_maps=scoring.density_maps,
        sigma=scoring.sigma,
        use_gpu=compute.use_gpu,
        num_workers=scoring.num_workers,
        about={"model": public_url(name), "flip": flip, "notes": notes},
    )


def write_scores(
    scores: ScoreTable, source: MapSource, reader: ShardReader, scoring: Scoring, name: str
) -> Path:
    """Print the scores, write them and the report, and return the folder.

    name: folder or URI of what is scored; its last part is shown.
    """
    own, name = digest(scored=name)[:6], Path(public_url(name)).name
    default = Path("runs") / f"scores-{reader.manifest.name}-{reader.split}-{slug(name, 40)}-{own}"
    folder = (scoring.out or default).absolute()
    scores.save(folder)
    if scoring.json:
        run_folder.write_json(scoring.json, scores.as_json())
    title = f"Scores of {name} on {reader.manifest.name}/{reader.split}"
    write_report(folder / REPORT, scores, title, source, reader)
    say(scores)
    print(f"written to {folder}", flush=True)
    return folder


def say(scores: ScoreTable) -> None:
    """Print the means under both rule books, and the notes."""
    means = scores.means
    for rules in ("mit", "tuebingen"):
        columns = score_table.columns_of(rules, scores.metrics)
        print(f"\n{rules} rules\n{score_table.text(means, columns)}")
    print(f"\nIG is over: {scores.about['ig_baseline']}")
    for note in scores.about["notes"]:
        print(f"note: {note}")
    print(flush=True)
