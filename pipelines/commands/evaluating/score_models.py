"""The commands `evaluate`, `score` and `compare`: what is scored, on what, and what is written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from emlnet.inference import package
from emlnet.public_url import public_url
from emlnet.registry import mlflow_registry
from pipelines.config.identity import digest, slug
from pipelines.config.options import ClusterOptions, StoreOptions
from pipelines.evaluation import compare, evaluate, score_table
from pipelines.evaluation.html_report import COMPARISON, REPORT, write_comparison, write_report
from pipelines.evaluation.score_maps import MapFiles, MapKind
from pipelines.evaluation.score_table import Table
from pipelines.evaluation.sources import MODEL, ModelSource, Source
from pipelines.ray_cluster import check_nodes, connection
from pipelines.registry import promotion
from pipelines.tracking import run_folder
from pipelines.tracking.mlflow_runs import Tracker
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
    """Answer each `tuebingen` metric with the map that is best for it, as the Tuebingen board lets
    density models do; takes seconds an image."""
    sigma: float | None = None
    """Of the Gaussian that made the data's density maps, in pixels; default: estimated."""
    num_workers: int = 0
    """Images are scored by so many Ray tasks at once; 0: by as many as there are CPUs or GPUs."""
    out: Path | None = None
    """Folder for what is written. Default: one under runs/; `compare` then writes nothing."""
    json: Path | None = None
    """One more file for what comes to scores.json, or comparison.json, in that folder."""


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Score a model on a split, beside its encoders, baselines and people; writes a report."""

    data: Path
    """Folder of shards, or a raw folder, which is packed for the while."""
    model: str
    """Folder of a model, models:/emlnet@ALIAS, models:/emlnet/VERSION or runs:/RUN_ID."""
    flip: bool = False
    """Average each map with that of the mirrored picture."""
    scoring: OmitArgPrefixes[Scoring] = field(default_factory=Scoring)
    compute: OmitArgPrefixes[ClusterOptions] = field(default_factory=ClusterOptions)
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)


@dataclass(frozen=True, kw_only=True)
class ScoreCommand:
    """Score a folder of anyone's maps: 8 or 16-bit PNG, JPEG, npy, or an HDF5 file."""

    maps: Positional[Path]
    """Folder of maps named as the pictures, with or without `_smap`; or HDF5 of log-densities."""
    data: Path
    """Folder of shards, or a raw folder, which is packed for the while."""
    kind: MapKind | None = None
    """What the values are; default: log-density in HDF5, saliency in all else."""
    resize: bool = False
    """Resize maps whose size is not their picture's; without it they are an error."""
    scoring: OmitArgPrefixes[Scoring] = field(default_factory=Scoring)
    compute: OmitArgPrefixes[ClusterOptions] = field(default_factory=ClusterOptions)


@dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Compare two models, folders of maps or files of scores, image by image on the same split."""

    first: Positional[str]
    """A model (folder or URI), maps (folder or HDF5), or a scores.parquet."""
    second: Positional[str]
    """The same, of what it is compared with."""
    data: Path
    """Folder of shards, or a raw folder, which is packed for the while."""
    metric: str = compare.METRIC
    """Metric by which the pictures that differ most are found, named with its rule book."""
    num_pictures: int = 5
    """Pictures to list on either side."""
    flip: bool = False
    """Average each map of a model with that of the mirrored picture."""
    kind: MapKind | None = None
    """What values of map files are; default: log-density in HDF5, saliency in all else."""
    resize: bool = False
    """Resize maps whose size is not their picture's; without it they are an error."""
    scoring: OmitArgPrefixes[Scoring] = field(default_factory=Scoring)
    compute: OmitArgPrefixes[ClusterOptions] = field(default_factory=ClusterOptions)
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        if self.metric not in score_table.METRICS:
            raise ValueError(
                f"no metric {self.metric!r}; there are {', '.join(score_table.METRICS)}"
            )


@contextmanager
def open_data(data: Path, split: str) -> Iterator[ShardReader]:
    """A reader of a split of a folder of shards, or of a raw folder packed until the body ends."""
    place = location(data)
    if isinstance(place, str) or (place / MANIFEST).is_file():
        yield ShardReader(place, split)
        return
    with tempfile.TemporaryDirectory(prefix="shards-") as scratch:
        print(f"packing {data}; `python -m shards build` does it once for all", flush=True)
        packed = Path(scratch) / "shards"
        build(data.absolute(), packed, skip_incomplete=True)
        yield ShardReader(packed, split)


def run_evaluate(command: EvaluateCommand) -> Table:
    """Scores a model; with one of a run or the registry, the scores and report go to its run."""
    with open_data(command.data, command.scoring.split) as reader:
        source = _open_model(command.model, command.flip, command.tracking)
        scores = _score(
            source, MODEL, command.model, reader, command.scoring, command.compute, command.flip
        )
        folder = _write(scores, source, reader, command.scoring, command.model)
    run_id = _run_of(command.model, command.tracking)
    if run_id:
        tracker = Tracker(uri=command.tracking.uri, experiment_id="")
        for name in (score_table.PARQUET, score_table.JSON, REPORT):
            tracker.file(run_id, folder / name, promotion.FOLDER)
        tags = tracker.client.get_run(run_id).data.tags
        is_own = tags.get("data_digest") == scores.about["data_digest"]
        if is_own and command.scoring.split == "val" and not command.scoring.density_maps:
            tracker.metrics(
                run_id, score_table.as_metrics(score_table.means(scores.estimates())[MODEL])
            )
        print(f"logged with MLflow run {run_id}, under {promotion.FOLDER}/", flush=True)
    return scores


def run_score(command: ScoreCommand) -> Table:
    """Scores a folder of maps."""
    with open_data(command.data, command.scoring.split) as reader:
        source = MapFiles.find(command.maps, reader.keys, command.kind, command.resize)
        name = str(command.maps)
        scores = _score(source, source.name, name, reader, command.scoring, command.compute)
        _write(scores, source, reader, command.scoring, name)
    return scores


def run_compare(command: CompareCommand) -> list[compare.Difference]:
    """Compares two models, prints the differences, and writes them where asked."""
    with open_data(command.data, command.scoring.split) as reader:
        first, first_source = _scores_of(command.first, command, reader)
        second, second_source = _scores_of(command.second, command, reader)
        names = (public_url(command.first), public_url(command.second))
        differences = compare.compare(first, second)
        gains = compare.gains(
            first.of(first.models[0]), second.of(second.models[0]), command.metric
        )
        print(f"\n{compare.text(differences, names)}\n")
        gains = gains.dropna().sort_values(ascending=False, kind="stable")
        num, worst = command.num_pictures, gains.iloc[::-1]
        parts = {"better": gains[gains > 0].head(num), "worse": worst[worst < 0].head(num)}
        for title, part in parts.items():
            print(f"where the first is {title} by {command.metric}:")
            lines = [f"  {image}  {gain:+.3f}" for image, gain in part.items()]
            print("\n".join(lines or ["  nowhere"]))
        content = {
            "first": names[0],
            "second": names[1],
            "data_digest": first.about["data_digest"],
            "split": command.scoring.split,
            "differences": [asdict(difference) for difference in differences],
            "gains": {command.metric: gains.to_dict()},
        }
        if command.scoring.json:
            run_folder.write_json(command.scoring.json, content)
        out = command.scoring.out
        if out:
            out.mkdir(parents=True, exist_ok=True)
            sources = (first_source, second_source)
            write_comparison(out / COMPARISON, (first, second), command.metric, sources, reader)
            run_folder.write_json(out / "comparison.json", content)
            print(f"written to {out}", flush=True)
    return differences


def _open_model(uri: str, flip: bool, store: StoreOptions, alone: bool = False) -> ModelSource:
    with tempfile.TemporaryDirectory() as scratch:
        folder = mlflow_registry.resolve(uri, store.uri, Path(scratch) / "model")
        return ModelSource(model=package.load(folder).model, flip=flip, alone=alone)


def _run_of(uri: str, store: StoreOptions) -> str | None:
    """The MLflow run that made a model, None for a folder."""
    if uri.startswith("runs:/"):
        return uri.removeprefix("runs:/").strip("/")
    if not uri.startswith("models:/"):
        return None
    return str(mlflow_registry.find_uri(mlflow_registry.connect(store.uri), uri).run_id)


def _score(
    source: Source,
    row: str,
    name: str,
    reader: ShardReader,
    scoring: Scoring,
    compute: ClusterOptions,
    flip: bool = False,
    with_baselines: bool = True,
) -> Table:
    """The table of a source, whose first row is called `row`.  name: what the user calls it."""
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


def _scores_of(
    what: str, command: CompareCommand, reader: ShardReader
) -> tuple[Table, Source | None]:
    """The scores per image of one side of a comparison, read or made now, and what makes them."""
    path = Path(what)
    if path.suffix == ".parquet":
        kept = score_table.read_parquet(path)
        return kept.only(kept.models[0]).renamed(kept.models[0], what), None
    is_model = (path / package.MODEL).is_file() or what.startswith(("models:/", "runs:/"))
    source: ModelSource | MapFiles
    if is_model:
        source, row = _open_model(what, command.flip, command.tracking, alone=True), MODEL
    else:
        source = MapFiles.find(path, reader.keys, command.kind, command.resize)
        row = source.name
    flip = is_model and command.flip
    scores = _score(source, row, what, reader, command.scoring, command.compute, flip, False)
    return scores.renamed(row, what), source


def _write(scores: Table, source: Source, reader: ShardReader, scoring: Scoring, name: str) -> Path:
    """Prints the scores and writes them and the report; returns the folder.

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


def say(scores: Table) -> None:
    """Prints the means under both rule books, and what to know of them."""
    means = score_table.means(scores.estimates())
    for rules in ("mit", "tuebingen"):
        columns = score_table.columns_of(rules, scores.metrics)
        print(f"\n{rules} rules\n{score_table.text(means, columns)}")
    print(f"\nIG is over: {scores.about['ig_baseline']}")
    for note in scores.about["notes"]:
        print(f"note: {note}")
    print(flush=True)
