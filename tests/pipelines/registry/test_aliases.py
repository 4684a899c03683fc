"""Who holds an alias, and who held it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from emlnet.registry.mlflow_registry import NAME
from pipelines.commands.models.promote_version import (
    PromoteCommand,
    RollbackCommand,
    promote,
    rollback,
)
from pipelines.config.options import StoreOptions
from pipelines.registry import aliases
from pipelines.tracking.mlflow_runs import Tracker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StoreOptions:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    Tracker.open(uri, "test")
    return StoreOptions(tracking_uri=uri)


@pytest.fixture
def client(store: StoreOptions, tmp_path: Path) -> Iterator[MlflowClient]:
    """A registry with three versions and no aliases."""
    client = Tracker(uri=store.uri).client
    client.create_registered_model(NAME)
    for _ in range(3):
        client.create_model_version(NAME, str(tmp_path))
    yield client
    client.delete_registered_model(NAME)


def give(client: MlflowClient, *versions: str, alias: str = "champion") -> None:
    for version in versions:
        aliases.set_alias(client, alias, version, "better", aliases.history(client, alias))


def test_the_history_says_who_held_an_alias_since_when_and_why(client: MlflowClient) -> None:
    assert aliases.describe(client, "champion") == "no version has the alias 'champion'"
    give(client, "1", "2")
    assert aliases.current_version(client, "champion") == "2"
    tag = client.get_registered_model(NAME).tags["champion_holders"]
    assert aliases.history(client, "champion") == json.loads(tag)
    assert [entry["version"] for entry in json.loads(tag)] == ["1", "2"]
    said = aliases.describe(client, "champion")
    assert said.startswith("champion: version 2 since 20")
    assert said.endswith("after version 1: better")


def test_an_alias_that_another_publisher_gave_away_at_once_is_an_error(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(client, "1")
    monkeypatch.setattr(aliases, "current_version", lambda *_: "3")
    with pytest.raises(RuntimeError, match="another publisher gave 'champion' to version 3"):
        aliases.set_alias(client, "champion", "2", "better", [])


def test_rolling_back_goes_to_the_one_before_and_further(
    client: MlflowClient, store: StoreOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    give(client, "1", "2", "3")
    rollback(RollbackCommand(reason="it misses faces", tracking=store))
    assert aliases.current_version(client, "champion") == "2"
    told = capsys.readouterr().out
    assert "after version 1: rolled back from version 3: it misses faces" in told
    rollback(RollbackCommand(tracking=store))
    assert aliases.current_version(client, "champion") == "1"
    with pytest.raises(ValueError, match="version 1 is the first that has the alias 'champion'"):
        rollback(RollbackCommand(tracking=store))
    with pytest.raises(ValueError, match="no version has the alias 'best'"):
        rollback(RollbackCommand(alias="best", tracking=store))


def test_a_version_that_held_an_alias_twice_is_rolled_back_from_twice(
    client: MlflowClient, store: StoreOptions
) -> None:
    give(client, "1", "2", "1", "3")
    before = aliases.history(client, "champion")
    assert promote(PromoteCommand(version=3, force="again", tracking=store)) == 0
    assert aliases.history(client, "champion") == before
    seen = []
    for _ in range(3):
        rollback(RollbackCommand(tracking=store))
        seen.append(aliases.current_version(client, "champion"))
    assert seen == ["1", "2", "1"]


def test_an_alias_that_was_set_in_mlflows_pages_is_rolled_back_too(
    client: MlflowClient, store: StoreOptions
) -> None:
    give(client, "1")
    client.set_registered_model_alias(NAME, "champion", "3")
    assert aliases.describe(client, "champion").endswith("after version 1: set elsewhere")
    rollback(RollbackCommand(tracking=store))
    assert aliases.current_version(client, "champion") == "1"


def test_a_version_is_promoted_by_hand_with_a_reason(
    client: MlflowClient, store: StoreOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    client.set_registered_model_alias(NAME, "challenger", "2")
    promote(PromoteCommand(version=2, force="we ship it", tracking=store))
    assert capsys.readouterr().out.endswith(": by hand: we ship it\n")
    held = {
        name: int(version) for name, version in client.get_registered_model(NAME).aliases.items()
    }
    assert held == {"champion": 2}
    with pytest.raises(ValueError, match="emlnet has no version 9"):
        promote(PromoteCommand(version=9, force="x", tracking=store))
    with pytest.raises(ValueError, match="--data to compare on, or --force"):
        PromoteCommand(version=2)


@pytest.mark.parametrize(
    ("name", "alias"), [("osie", "osie"), ("MIT 1003!", "MIT-1003-"), ("v2", "data-v2")]
)
def test_a_data_set_has_an_alias_of_its_name(client: MlflowClient, name: str, alias: str) -> None:
    assert aliases.data_alias(name) == alias
    give(client, "1", alias=alias)
