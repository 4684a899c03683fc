"""`python -m pipelines compare`: the paired differences of two models or folders of maps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from emlnet.metrics.saliency_metrics import find_metric
from emlnet.public_url import public_url
from emlnet.registry import model_sources
from pipelines.commands.evaluating.scoring import ScoringCommand
from pipelines.config.options import StoreOptions
from pipelines.evaluation import compare, score_table
from pipelines.evaluation.html_report import COMPARISON, write_comparison
from pipelines.evaluation.score_maps import MapFiles, MapKind
from pipelines.evaluation.score_table import ScoreTable
from pipelines.evaluation.sources import MODEL, MapSource, ModelSource
from pipelines.tracking import run_folder
from shards.read.reader import ShardReader


@dataclass(frozen=True, kw_only=True)
class CompareCommand(ScoringCommand):
    """Compare two models, folders of maps or files of scores, image by image on the same split."""

    first: Positional[str]
    """A model (folder or URI), maps (folder or HDF5), or a scores.parquet."""
    second: Positional[str]
    """The model, maps or scores to compare it with, given in the same way."""
    metric: str = compare.METRIC
    """Metric that finds the pictures that differ most, e.g. tuebingen_ig or mit_nss."""
    num_pictures: int = 5
    """Pictures to list for each of the two models."""
    flip: bool = False
    """Average each map of a model with that of the mirrored picture."""
    kind: MapKind | None = None
    """Kind of values in map files; default: log-density in HDF5, else saliency."""
    resize: bool = False
    """Resize maps whose size is not their picture's; without it they are an error."""
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)

    def __post_init__(self) -> None:
        find_metric(self.metric)


def run(command: CompareCommand) -> list[compare.Difference]:
    """Compare two models; print the differences, and write them to --out and --json."""
    with command.open_data() as reader:
        sides = [scores_of(name, command, reader) for name in (command.first, command.second)]
        (first, first_source), (second, second_source) = sides
        differences = compare.compare(first, second)
        gains = compare.gains(first, second, command.metric)
        gains = gains.sort_values(ascending=False, kind="stable")
        names = {"first": public_url(command.first), "second": public_url(command.second)}
        print(*(f"\n{which}: {name}" for which, name in names.items()), sep="")
        print(f"\n{compare.difference_table(differences).to_string()}\n")
        num, worst = command.num_pictures, gains.iloc[::-1]
        parts = {"better": gains[gains > 0].head(num), "worse": worst[worst < 0].head(num)}
        for title, part in parts.items():
            print(f"where the first is {title} by {command.metric}:")
            lines = [f"  {image}  {gain:+.3f}" for image, gain in part.items()]
            print("\n".join(lines or ["  nowhere"]))
        content = {
            **names,
            "data_digest": first.about["data_digest"],
            "split": command.split,
            "differences": [asdict(difference) for difference in differences],
            "gains": {command.metric: gains.to_dict()},
        }
        if command.json:
            run_folder.write_json(command.json, content)
        if out := command.out:
            sources = first_source, second_source
            write_comparison(out / COMPARISON, (first, second), command.metric, sources, reader)
            run_folder.write_json(out / "comparison.json", content)
            print(f"written to {out}; open {COMPARISON} in a browser", flush=True)
    return differences


def scores_of(
    name: str, command: CompareCommand, reader: ShardReader
) -> tuple[ScoreTable, MapSource | None]:
    """Read or compute the scores of one side; return them and, if computed, their source."""
    path = Path(name)
    if path.suffix == ".parquet":
        kept = score_table.read_parquet(path)
        return kept.only(kept.models[0]).renamed(kept.models[0], name), None
    if model_sources.is_model(name):
        model = model_sources.load(name, tracking_uri=command.tracking.uri).model
        source = ModelSource(model=model, flip=command.flip, own_map_only=True)
        scores = command.score(source, name, reader, flip=command.flip, with_baselines=False)
        return scores.renamed(MODEL, name), source
    maps = MapFiles.find(path, reader.keys, command.kind, command.resize)
    scores = command.score(maps, name, reader, with_baselines=False)
    return scores.renamed(maps.name, name), maps
