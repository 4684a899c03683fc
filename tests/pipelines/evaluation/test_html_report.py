"""The HTML report: one self-contained file that says what was scored."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emlnet.metrics.baselines import uniform
from pipelines.evaluation import plots, sources
from pipelines.evaluation.evaluate import COVERAGES
from pipelines.evaluation.html_report import write_comparison, write_report
from pipelines.evaluation.plots import label
from pipelines.evaluation.sources import CENTRE, ScoredMap, SplitImage, density_row
from shards.read.reader import ShardReader
from tests.pipelines.tables import make_table


class Flat:
    """A source that answers with a uniform density."""

    def rows(self, split_image: SplitImage) -> list[ScoredMap]:
        return [density_row("model", uniform(split_image.targets.size))]


@pytest.fixture(scope="module")
def page(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    reader = ShardReader(data, "val")
    values = {
        model: {
            "mit_nss": [1.0, 2.0, 3.5],
            "mit_cc": [0.1, 0.2, 0.3],
            "mit_kl": [0.5, 0.4, 0.3],
            "tuebingen_ig": [gain, 2 * gain, -gain],
            **{name: [0.5, 0.6, 0.7] for name in COVERAGES},
        }
        for model, gain in (("model <b>", 0.25), (CENTRE, 0.0))
    }
    table = make_table(values, data="pictures", num_images=3, notes=["1 map is <odd>"])
    keys = dict(zip(table.of(CENTRE).index, reader.keys, strict=True))
    table.frame["image"] = table.frame["image"].map(keys)
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, table, "Scores of & on pictures/val", Flat(), reader)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text()


def test_it_loads_nothing_from_elsewhere(page: str) -> None:
    elsewhere = r"<script|<link|@import|url\((?!#)|(src|href)=\"(?!data:image/|#)"
    assert re.search(elsewhere, page) is None


def test_names_and_notes_are_text_not_markup(page: str) -> None:
    assert "model &lt;b&gt;" in page
    assert "1 map is &lt;odd&gt;" in page
    assert "Scores of &amp; on pictures/val" in page


def test_it_shows_means_with_intervals_and_names_the_baseline_of_ig(page: str) -> None:
    assert "<td><b>2.167</b><small>1.000 to 3.500</small></td>" in page
    assert "relative to: centre prior of train" in page


def test_worst_comes_before_best_with_five_panels_an_image(page: str) -> None:
    assert page.index(">Worst<") < page.index(">Best<")
    assert page.count("<img ") == 2 * 5
    worst = re.findall(r"<h4>(.+?): IG (.+?),", page)
    assert [float(value) for _, value in worst] == [-0.25, 0.5]


def test_each_metric_is_marked_with_its_better_side() -> None:
    assert label("mit_kl") == "KL ↓"
    assert label("tuebingen_auc", rules=True) == "AUC (tuebingen) ↑"


def test_loss_is_dark_and_gain_light(data: Path) -> None:
    reader = ShardReader(data, "val")
    split_image = sources.prepare_split_image(0, reader.decoded(0), torch.device("cpu"))
    half = split_image.targets.size[1] // 2
    density = torch.ones_like(split_image.targets.density)
    density[..., :half] = 3  # It knows more on the left.
    answer = density_row("model", (density / density.sum()).log())
    panels = dict(
        plots.draw_panels(split_image, [("map", answer)], uniform(split_image.targets.size))
    )
    assert list(panels) == ["photograph", "fixations", "ground truth", "map", "gain and loss"]
    jpeg = base64.b64decode(panels["gain and loss"].partition(",")[2])
    left, right = np.hsplit(np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")), 2)
    assert 100 < left.min() < 150 < 170 < left.max()
    assert right.min() < 45 < 100 < right.max() < 150


def test_a_comparison_shows_where_each_is_better(data: Path, tmp_path: Path) -> None:
    reader = ShardReader(data, "val")
    tables = []
    for name, values in (("one <a>", [1.0, 2.0, 0.0]), ("two", [0.5, 2.5, 0.25])):
        table = make_table({name: {"mit_nss": values}}, data="pictures", num_images=3, notes=[])
        table.frame["image"] = list(reader.keys)
        tables.append(table)
    path = tmp_path / "comparison.html"
    write_comparison(path, (tables[0], tables[1]), "mit_nss", (Flat(), Flat()), reader)
    page = path.read_text()
    assert "one &lt;a&gt; against two" in page
    assert page.count("<img ") == 2 * 6
    found = re.findall(r"<h4>(.+?): NSS (.+?) against (.+?)</h4>", page)
    keys = reader.keys
    assert found == [(keys[0], "1.00", "0.50"), (keys[1], "2.00", "2.50")]
