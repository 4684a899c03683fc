"""The report: one file that needs nothing else, and says what was scored."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.evaluation import picture_cards
from pipelines.evaluation.evaluate import COVERAGES
from pipelines.evaluation.html_report import write_comparison, write_report
from pipelines.evaluation.plots import label
from pipelines.evaluation.sources import CENTRE, ScoredMap, SplitImage, density_row
from shards.read.reader import ShardReader
from tests.pipelines.tables import make_table


class Flat:
    """A source that answers with a uniform density."""

    def to(self, device: torch.device) -> Flat:
        return self

    def rows(self, shown: SplitImage) -> list[ScoredMap]:
        uniform = torch.full_like(shown.targets.density, 1 / shown.targets.density[0].numel())
        return [density_row("model", uniform.log())]


class Tags(HTMLParser):
    """All tags and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        self.addresses += [value for key in ("src", "href") if (value := named.get(key))]


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
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.tags
    assert "link" not in tags.tags
    assert all(address.startswith(("data:image/", "#")) for address in tags.addresses)
    assert not re.search(r"url\((?!#)|@import", page)


def test_names_and_notes_are_text_not_markup(page: str) -> None:
    assert "model &lt;b&gt;" in page
    assert "1 map is &lt;odd&gt;" in page
    assert "Scores of &amp; on pictures/val" in page


def test_it_shows_means_with_intervals_and_names_the_baseline_of_ig(page: str) -> None:
    assert "<b>2.167</b><small>1.000 to 3.500</small>" in page
    assert "over: centre prior of train" in page


def test_worst_comes_before_best_with_five_panels_an_image(page: str) -> None:
    assert page.index(">Worst<") < page.index(">Best<")
    tags = Tags()
    tags.feed(page)
    assert tags.tags.count("img") == 2 * 5
    worst = re.findall(r"<h4>(.+?): IG (.+?),", page)
    assert [float(value) for _, value in worst] == [-0.25, 0.5]


def test_each_metric_is_marked_with_its_better_side() -> None:
    assert label("mit_kl") == "KL ↓"
    assert label("tuebingen_auc", rules=True) == "AUC (tuebingen) ↑"


def test_loss_is_darker_than_nothing_and_gain_lighter() -> None:
    gained = torch.zeros(1, 1, 3, 3)
    gained[0, 0, 0, 0], gained[0, 0, 2, 2] = -1, 1
    colours = picture_cards.gain_colours(gained).astype(float) @ np.array([0.2126, 0.7152, 0.0722])
    middle = colours[colours.shape[0] // 2, colours.shape[1] // 2]
    assert colours[0, 0] < middle - 50 < middle + 50 < colours[-1, -1]


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
    tags = Tags()
    tags.feed(page)
    assert tags.tags.count("img") == 2 * 6
    found = re.findall(r"<h4>(.+?): NSS (.+?) against (.+?)</h4>", page)
    keys = reader.keys
    assert found == [(keys[0], "1.00", "0.50"), (keys[1], "2.00", "2.50")]
