"""Options and steps that `evaluate`, `score` and `compare` share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from emlnet.public_url import public_url
from pipelines.config.identity import digest, slug
from pipelines.config.options import ClusterOptions
from pipelines.evaluation import evaluate, score_table
from pipelines.evaluation.html_report import REPORT, write_report
from pipelines.evaluation.score_table import ScoreTable
from pipelines.evaluation.sources import MapSource
from pipelines.ray_cluster import check_nodes, connection
from pipelines.tracking import run_folder
from shards.build.build_options import BuildOptions
from shards.build.writer import build
from shards.files.manifest import MANIFEST
from shards.files.store import location
from shards.read.reader import ShardReader


@dataclass(frozen=True, kw_only=True)
class ScoringCommand:
    """Options of the commands that score: data, method and output."""

    data: Path
    """Folder of shards, or a raw folder, which is packed into a temporary one."""
    split: str = "val"
    """Split to score."""
    density_maps: bool = False
    """Score each `tuebingen` metric on the map that is best for it, computed from the density, as
    the Tuebingen benchmark does; takes seconds per image."""
    sigma: float | None = None
    """Sigma of the Gaussian that made the data's density maps, in pixels; default: estimated."""
    num_workers: int = 0
    """Ray tasks that score images at the same time; 0: as many as there are CPUs or GPUs."""
    out: Path | None = None
    """Folder for the results. Default: a folder under runs/; for `compare`, none."""
    json: Path | None = None
    """Another file for the content of scores.json or comparison.json."""
    compute: OmitArgPrefixes[ClusterOptions] = field(default_factory=ClusterOptions)

    @contextmanager
    def open_data(self) -> Iterator[ShardReader]:
        """Open a split of shards; pack a raw folder into temporary shards first."""
        place = location(self.data)
        if isinstance(place, str) or (place / MANIFEST).is_file():
            yield ShardReader(place, self.split)
            return
        with tempfile.TemporaryDirectory(prefix="shards-") as scratch:
            print(f"packing {self.data}; run `python -m shards build` to pack it once", flush=True)
            packed = Path(scratch) / "shards"
            build(self.data.absolute(), packed, BuildOptions(skip_incomplete=True))
            yield ShardReader(packed, self.split)

    def score(
        self,
        source: MapSource,
        name: str,
        reader: ShardReader,
        *,
        flip: bool = False,
        notes: list[str] | None = None,
        with_baselines: bool = True,
    ) -> ScoreTable:
        """Score a source.  name: as the user gave it.  notes: shown beside the scores."""
        connection.connect(self.compute)
        check_nodes.check([reader.folder])
        return evaluate.evaluate(
            [source],
            reader,
            title=f"scores of {public_url(name)}",
            with_baselines=with_baselines,
            best_maps=self.density_maps,
            sigma=self.sigma,
            use_gpu=self.compute.use_gpu,
            num_workers=self.num_workers,
            about={"model": public_url(name), "flip": flip, "notes": notes or []},
        )

    def report(self, scores: ScoreTable, source: MapSource, name: str, reader: ShardReader) -> Path:
        """Print the scores, write them and the report, and return the folder.

        name: folder or URI of the model or maps; its last part is shown.
        """
        data, shown = f"{reader.manifest.name}-{reader.split}", Path(public_url(name)).name
        default = f"runs/scores-{data}-{slug(shown, 40)}-{digest(scored=name)[:6]}"
        folder = (self.out or Path(default)).absolute()
        scores.save(folder)
        if self.json:
            run_folder.write_json(self.json, scores.as_json())
        title = f"Scores of {shown} on {reader.manifest.name}/{reader.split}"
        write_report(folder / REPORT, scores, title, source, reader)
        for rules in ("mit", "tuebingen"):
            columns = score_table.columns_of(rules, scores.metrics)
            print(f"\n{rules} rules\n{score_table.text(scores.means, columns)}")
        print(f"\nbaseline of IG: {scores.about['ig_baseline']}")
        for note in scores.about["notes"]:
            print(f"note: {note}")
        print(f"\nwritten to {folder}; open {REPORT} in a browser", flush=True)
        return folder
