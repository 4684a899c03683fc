"""Who becomes champion, who challenger, and why."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from emlnet.inference.package import save
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.registry.mlflow_registry import CHAMPION, NAME, PACKAGE, find_version
from pipelines.registry import promotion, publish
from pipelines.tracking.mlflow_runs import Tracker
from shards.read.reader import ShardReader
from tests.pipelines.tables import make_table

BASE = [0.5, 0.9, 0.4]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    return Tracker.open(f"sqlite:///{path}", "test")


@pytest.fixture
def tracker(store: Tracker) -> Iterator[Tracker]:
    """A store whose registry is empty: to make a new one takes seconds."""
    yield store
    store.client.delete_registered_model(NAME)


@pytest.fixture(scope="module")
def reader(data: Path) -> ShardReader:
    return ShardReader(data, "val")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two packaged models of other weights."""
    folders = []
    for number in range(2):
        encoder = Encoder(EncoderConfig(backbone="tiny", weights="none", size=(48, 64)))
        folder = tmp_path_factory.mktemp("model") / "package"
        about = {"name": f"tiny {number}", "data": {"name": "d", "licence": "CC0 1.0"}}
        folders.append(save(folder, encoder, about))
    return folders


def register(
    gains: Sequence[float],
    tracker: Tracker,
    package: Path,
    reader: ShardReader,
    folder: Path,
    metric: str = "tuebingen_ig",
) -> promotion.Promotion:
    """Publishes a model whose values are so far above the base values."""
    folder.mkdir()
    values = [base + gain for base, gain in zip(BASE, gains, strict=True)]
    scores = make_table({"tiny": {metric: values}}, data_digest=reader.manifest.digest)
    with tracker.run(folder, "run", params={}, tags={}) as run_id:
        tracker.log_file(run_id, package, PACKAGE)
        return publish.publish(package, tracker, run_id, scores, reader, False, metric)


def test_a_model_that_is_better_on_each_image_takes_the_alias(
    tracker: Tracker, packages: list[Path], reader: ShardReader, tmp_path: Path
) -> None:
    first = register([0, 0, 0], tracker, packages[0], reader, tmp_path / "0")
    second = register([0.1, 0.2, 0.1], tracker, packages[1], reader, tmp_path / "1")
    assert (first.promoted, second.promoted) == (True, True)
    assert first.reason == "champion: the first"
    held = find_version(tracker.client, CHAMPION)
    assert held is not None
    assert int(held.version) == second.version
    assert held.tags["promotion"] == second.reason
    assert (held.tags["licence"], held.tags["data_licence"]) == ("unknown", "CC0 1.0")
    assert second.reason.startswith(
        "champion: tuebingen_ig 0.7333 against 0.6000 of version 1, a gain of +0.1333 [+0.1"
    )
    assert held.tags["data_digest"] == reader.manifest.digest
    assert float(held.tags["score_tuebingen_ig"]) == pytest.approx(0.7333, abs=1e-4)
    logged = tracker.client.get_logged_model(held.source.removeprefix("models:/"))
    folder = Path(logged.artifact_location.removeprefix("file://"))
    asked = (folder / "requirements.txt").read_text().split()
    assert f"torch=={version('torch').partition('+')[0]}" in asked


@pytest.mark.parametrize(
    ("metric", "gains", "interval"),
    [("tuebingen_ig", [-0.1, 0.5, -0.1], "+0.1000"), ("mit_kl", [0.1] * 3, "-0.1000")],
    ids=["a higher mean", "a higher divergence"],
)
def test_a_model_that_is_not_surely_better_becomes_challenger_and_says_why(
    metric: str,
    gains: list[float],
    interval: str,
    tracker: Tracker,
    packages: list[Path],
    reader: ShardReader,
    tmp_path: Path,
) -> None:
    register([0, 0, 0], tracker, packages[0], reader, tmp_path / "0", metric)
    answer = register(gains, tracker, packages[1], reader, tmp_path / "1", metric)
    assert not answer.promoted
    assert answer.reason.startswith(f"challenger: {metric} 0.7000 against 0.6000 of version 1")
    assert f"a gain of {interval}" in answer.reason
    assert answer.reason.endswith("the 95 % interval is not above 0")
    assert int(find_version(tracker.client, CHAMPION).version) == 1
    assert int(find_version(tracker.client, publish.CHALLENGER).version) == answer.version


@pytest.mark.parametrize("cut_off", ["log_model", "keep_scores", "promote"])
def test_a_registration_that_was_cut_off_is_found_again(
    cut_off: str,
    tracker: Tracker,
    packages: list[Path],
    reader: ShardReader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tracker.run(tmp_path, "run", params={}, tags={}) as run_id:
        pass
    ended = tracker.client.get_run(run_id).info.end_time
    scores = make_table({"tiny": {"tuebingen_ig": BASE}}, data_digest=reader.manifest.digest)
    arguments = (packages[0], tracker, run_id, scores, reader, False)
    owner = mlflow.pyfunc if cut_off == "log_model" else publish
    with monkeypatch.context() as killed:
        called = getattr(owner, cut_off)

        def end_after(*args: Any, **kwargs: Any) -> None:
            called(*args, **kwargs)
            raise KeyboardInterrupt

        killed.setattr(owner, cut_off, end_after)
        with pytest.raises(KeyboardInterrupt):
            publish.publish(*arguments)
    first, second = publish.publish(*arguments), publish.publish(*arguments)
    assert (first.version, first.promoted) == (1, True)
    assert second == first
    assert len(tracker.client.search_model_versions(f"name = '{NAME}'")) == 1
    own = f"source_run_id = '{run_id}'"
    assert len(tracker.client.search_logged_models([tracker.experiment_id], own)) == 1
    if cut_off != "log_model":
        assert tracker.client.get_run(run_id).info.end_time == ended


def test_a_champion_without_scores_on_this_data_is_scored_on_it(
    tracker: Tracker,
    reader: ShardReader,
    packages: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register([0, 0, 0], tracker, packages[0], reader, tmp_path / "0")
    asked = []

    def score(sources: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        asked.append(sources[0].flip)
        values = {"model": {"tuebingen_ig": np.array(BASE) + 1}}
        return make_table(values, data_digest=reader.manifest.digest)

    monkeypatch.setattr(promotion.evaluate, "evaluate", score)
    holder = find_version(tracker.client, CHAMPION)
    kept = promotion.scores_of(holder, reader, False, tracker)
    assert (kept.models, asked) == (["tiny"], [])
    fresh = promotion.scores_of(holder, reader, True, tracker)
    assert (fresh.models, asked) == (["version 1"], [True])
