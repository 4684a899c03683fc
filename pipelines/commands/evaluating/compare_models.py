"""`python -m pipelines compare`: the paired differences of two models or folders of maps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from emlnet.inference import package
from emlnet.metrics.saliency_metrics import find_metric
from emlnet.public_url import public_url
from pipelines.commands.evaluating.scoring import (
    Scoring,
    open_data,
    open_model,
    score_source,
)
from pipelines.config.options import ClusterOptions, StoreOptions
from pipelines.evaluation import compare, score_table
from pipelines.evaluation.html_report import COMPARISON, write_comparison
from pipelines.evaluation.score_maps import MapFiles, MapKind
from pipelines.evaluation.score_table import ScoreTable
from pipelines.evaluation.sources import MODEL, MapSource, ModelSource
from pipelines.tracking import run_folder
from shards.read.reader import ShardReader


@dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Compare two models, folders of maps or files of scores, image by image on the same split."""

    first: Positional[str]
    """A model (folder or URI), maps (folder or HDF5), or a scores.parquet."""
    second: Positional[str]
    """What it is compared with, likewise."""
    data: Path
    """Folder of shards, or a raw folder, which is packed for the time being."""
    metric: str = compare.METRIC
    """Metric by which the pictures that differ most are found, named with its rule book."""
    num_pictures: int = 5
    """Pictures to list on either side."""
    flip: bool = False
    """Average each map of a model with that of the mirrored picture."""
    kind: MapKind | None = None
    """What the values of map files are; default: log-density in HDF5, else saliency."""
    resize: bool = False
    """Resize maps whose size is not their picture's; without it they are an error."""
    scoring: OmitArgPrefixes[Scoring] = field(default_factory=Scoring)
    compute: OmitArgPrefixes[ClusterOptions] = field(default_factory=ClusterOptions)
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        find_metric(self.metric)


def run(command: CompareCommand) -> list[compare.Difference]:
    """Compare two models, print the differences, and write them where asked."""
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


def _scores_of(
    what: str, command: CompareCommand, reader: ShardReader
) -> tuple[ScoreTable, MapSource | None]:
    """Read or compute the scores of one side of a comparison; return them and their source."""
    path = Path(what)
    if path.suffix == ".parquet":
        kept = score_table.read_parquet(path)
        return kept.only(kept.models[0]).renamed(kept.models[0], what), None
    is_model = (path / package.MODEL).is_file() or what.startswith(("models:/", "runs:/"))
    source: ModelSource | MapFiles
    if is_model:
        source, row = open_model(what, command.flip, command.tracking, alone=True), MODEL
    else:
        source = MapFiles.find(path, reader.keys, command.kind, command.resize)
        row = source.name
    flip = is_model and command.flip
    scores = score_source(source, row, what, reader, command.scoring, command.compute, flip, False)
    return scores.renamed(row, what), source
