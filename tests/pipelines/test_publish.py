"""Who becomes champion."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emlnet.encoder import Encoder, EncoderConfig
from emlnet.package import save
from emlnet.registry import champion
from pipelines import publish
from pipelines.tracking import Tracker
from shards.reader import ShardReader


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    store = tmp_path_factory.mktemp("store") / "mlflow.db"
    return Tracker.open(f"sqlite:///{store}", "test")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = Encoder(EncoderConfig(backbone="tiny", weights="none", size=(48, 64)))
    return save(tmp_path_factory.mktemp("model") / "package", encoder, {"name": "tiny"})


def register(
    kl: float, tracker: Tracker, package: Path, data: Path, folder: Path
) -> publish.Published:
    with tracker.run(folder, "run", params={}, tags={}) as run_id:
        reader = ShardReader(data, "val")
        return publish.publish(package, tracker, run_id, {"kl": kl}, reader, flip=False)


def test_only_a_better_model_takes_the_alias(
    tracker: Tracker, package: Path, data: Path, tmp_path: Path
) -> None:
    answers = []
    for number, kl in enumerate((0.5, 0.6, 0.4, 0.4)):
        (tmp_path / str(number)).mkdir()
        answers.append(register(kl, tracker, package, data, tmp_path / str(number)))
    assert [answer.promoted for answer in answers] == [True, False, True, False]
    held = champion(tracker.client)
    assert held is not None
    assert int(held.version) == answers[2].version
    assert held.tags["promotion"] == "champion: kl 0.4000 against 0.5000 of version 1"
    assert held.tags["data_digest"] == ShardReader(data, "val").manifest.digest


def test_a_champion_of_other_data_is_scored_on_this(
    tracker: Tracker, data: Path, monkeypatch: pytest.MonkeyPatch, package: Path
) -> None:
    holder: Any = SimpleNamespace(version="1", tags={"data_digest": "other", "score_kl": "0.1"})
    asked = []

    def score(*args: Any, **kwargs: Any) -> dict[str, dict[str, float]]:
        asked.append(kwargs["name"])
        return {"champion": {"kl": 0.7}}

    monkeypatch.setattr(publish.evaluation, "evaluate", score)
    monkeypatch.setattr(publish.registry, "pull", lambda *args, **kwargs: package)
    reader = ShardReader(data, "val")
    wins, reason = publish._compare(2, holder, {"kl": 0.6}, reader, False, tracker)
    assert asked == ["champion"]
    assert wins
    assert reason == "champion: kl 0.6000 against 0.7000 of version 1"
