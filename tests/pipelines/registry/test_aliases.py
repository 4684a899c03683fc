"""Aliases change hands one at a time, and it is known who held them."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from emlnet.registry.mlflow_registry import NAME
from pipelines.commands.models import promote_version
from pipelines.config.options import StoreOptions
from pipelines.registry import aliases, publish
from pipelines.tracking.mlflow_runs import Tracker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    return Tracker.open(f"sqlite:///{path}", "test")


@pytest.fixture
def client(store: Tracker, tmp_path: Path) -> Iterator[MlflowClient]:
    """A registry with three versions and no aliases."""
    client = store.client
    client.create_registered_model(NAME)
    for _ in range(3):
        client.create_model_version(NAME, str(tmp_path))
    yield client
    client.delete_registered_model(NAME)


def tags(client: MlflowClient, version: str) -> dict[str, str]:
    return dict(client.get_model_version(NAME, version).tags)


def test_who_holds_an_alias_since_when_and_after_whom_is_kept(client: MlflowClient) -> None:
    assert aliases.hand_over(client, "champion", "1", None, "the first")
    assert aliases.hand_over(client, "champion", "2", "1", "better")
    assert aliases.holder(client, "champion") == "2"
    first, second = tags(client, "1"), tags(client, "2")
    assert (second["champion_after"], second["champion_reason"]) == ("1", "better")
    assert first["champion_until"] == second["champion_since"]
    assert second["champion_until"] == ""
    said = aliases.describe(client, "champion")
    assert said.startswith("champion: version 2 since 20")
    assert said.endswith("after version 1: better")


def test_an_alias_that_changed_hands_meanwhile_stays_where_it_is(client: MlflowClient) -> None:
    assert aliases.hand_over(client, "champion", "1", None, "the first")
    assert not aliases.hand_over(client, "champion", "3", None, "nobody held it when I looked")
    assert aliases.holder(client, "champion") == "1"
    assert "champion_since" not in tags(client, "3")


def test_of_two_publishers_at_once_none_is_lost(
    client: MlflowClient, store: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both beat version 1; the slower one must be compared with the faster one, not pass it by."""
    assert aliases.hand_over(client, "champion", "1", None, "the first")
    both_compared, seen = threading.Barrier(2), []

    def challenge(scores: int, held: Any, *args: Any) -> publish.Verdict:
        rival = int(held.version)
        seen.append((scores, rival))
        if rival == 1:
            both_compared.wait(10)
        return publish.Verdict(promoted=scores > rival, reason=f"{scores} against {rival}")

    monkeypatch.setattr(publish, "challenge", challenge)
    contend: Callable[..., publish.Verdict] = publish.contend
    threads = [
        threading.Thread(target=contend, args=("champion", str(n), n, None, False, store))
        for n in (2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert aliases.holder(client, "champion") == "3"
    assert {(2, 1), (3, 1)} < set(seen)
    assert len(seen) == 3
    with pytest.raises(MlflowException):
        client.get_registered_model(aliases.LOCK)


def test_a_lock_that_a_dead_process_left_is_broken(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_registered_model(aliases.LOCK)
    monkeypatch.setattr(aliases, "LOCK_SECONDS", -1.0)
    assert aliases.hand_over(client, "champion", "1", None, "the first")


def test_a_lock_that_is_held_is_waited_for_and_named(client: MlflowClient) -> None:
    with (
        aliases.locked(client),
        pytest.raises(RuntimeError, match=r"locked by another process.*'emlnet\.lock'"),
        aliases.locked(client, patience=0.2),
    ):
        pass


def test_rolling_back_goes_to_the_one_before_and_further(
    client: MlflowClient, store: Tracker, capsys: pytest.CaptureFixture[str]
) -> None:
    where = StoreOptions(tracking_uri=store.uri)
    held = None
    for version in ("1", "2", "3"):
        aliases.hand_over(client, "champion", version, held, "better")
        held = version
    promote_version.rollback(
        promote_version.RollbackCommand(reason="it misses faces", tracking=where)
    )
    assert aliases.holder(client, "champion") == "2"
    assert "rolled back from version 3: it misses faces" in capsys.readouterr().out
    assert tags(client, "3")["champion_until"]
    promote_version.rollback(promote_version.RollbackCommand(tracking=where))
    assert aliases.holder(client, "champion") == "1"
    with pytest.raises(ValueError, match="version 1 is the first that holds 'champion'"):
        promote_version.rollback(promote_version.RollbackCommand(tracking=where))


def test_a_version_that_held_an_alias_twice_is_rolled_back_from_twice(
    client: MlflowClient, store: Tracker
) -> None:
    for version, held in (("1", None), ("2", "1"), ("1", "2"), ("3", "1")):
        assert aliases.hand_over(client, "champion", version, held, "better")
    seen = []
    for _ in range(3):
        promote_version.rollback(
            promote_version.RollbackCommand(tracking=StoreOptions(tracking_uri=store.uri))
        )
        seen.append(aliases.holder(client, "champion"))
    assert seen == ["1", "2", "1"]


def test_promoting_the_version_that_holds_an_alias_forgets_nothing(
    client: MlflowClient, store: Tracker
) -> None:
    where = StoreOptions(tracking_uri=store.uri)
    aliases.hand_over(client, "champion", "1", None, "the first")
    aliases.hand_over(client, "champion", "2", "1", "better")
    promote_version.promote(
        promote_version.PromoteCommand(version=2, force="again", tracking=where)
    )
    assert tags(client, "2")["champion_reason"] == "better"
    promote_version.rollback(promote_version.RollbackCommand(tracking=where))
    assert aliases.holder(client, "champion") == "1"


def test_an_alias_that_was_set_in_mlflows_pages_is_rolled_back_too(
    client: MlflowClient, store: Tracker
) -> None:
    aliases.hand_over(client, "champion", "1", None, "the first")
    client.set_registered_model_alias(NAME, "champion", "3")
    promote_version.rollback(
        promote_version.RollbackCommand(tracking=StoreOptions(tracking_uri=store.uri))
    )
    assert aliases.holder(client, "champion") == "1"


def test_a_version_is_promoted_by_hand_with_a_reason(client: MlflowClient, store: Tracker) -> None:
    where = StoreOptions(tracking_uri=store.uri)
    promote_version.promote(
        promote_version.PromoteCommand(version=2, force="we ship it", tracking=where)
    )
    assert tags(client, "2")["champion_reason"] == "by hand: we ship it"
    with pytest.raises(ValueError, match="emlnet has no version 9"):
        promote_version.promote(
            promote_version.PromoteCommand(version=9, force="x", tracking=where)
        )
    with pytest.raises(ValueError, match="--data to compare on, or --force"):
        promote_version.PromoteCommand(version=2)


@pytest.mark.parametrize(
    ("name", "alias"), [("osie", "osie"), ("MIT 1003!", "MIT-1003-"), ("v2", "data-v2")]
)
def test_a_data_set_has_an_alias_of_its_name(client: MlflowClient, name: str, alias: str) -> None:
    assert aliases.data_alias(name) == alias
    assert aliases.hand_over(client, alias, "1", None, "the first")
