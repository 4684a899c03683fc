"""Who holds an alias of the registry, since when, and what it beat; one change at a time.

A version's tags: `<alias>_since`, `<alias>_until` (when it held it), `<alias>_after` (the version
that held it before, empty for none), `<alias>_reason`.  The registered model's tag
`<alias>_history` has all its holders in order, but for those that a rollback took back.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from emlnet.registry import mlflow_registry

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER = "challenger"
"""The alias of the latest model that did not become champion."""
LOCK = f"{mlflow_registry.NAME}.lock"
"""A registered model that is there while an alias changes: only one caller can make it."""
LOCK_SECONDS = 60.0
"""After which a lock is one that a process left when it died: a change takes parts of a second."""


def holder(client: MlflowClient, alias: str) -> str | None:
    """The version that holds an alias, None when nobody does."""
    try:
        return str(client.get_model_version_by_alias(mlflow_registry.NAME, alias).version)
    except MlflowException as error:
        if error.error_code not in mlflow_registry.ABSENT:
            raise
        return None


def history(client: MlflowClient, alias: str) -> list[str]:
    """The versions that held an alias in turn, the one that holds it last."""
    held = holder(client, alias)
    if held is None:
        return []
    tags = client.get_registered_model(mlflow_registry.NAME).tags
    past = [version for version in tags.get(f"{alias}_history", "").split(",") if version]
    return past if past[-1:] == [held] else [*past, held]  # Somebody set it elsewhere.


def hand_over(
    client: MlflowClient,
    alias: str,
    version: str,
    expected: str | None,
    reason: str,
    back: bool = False,
) -> bool:
    """Gives an alias to a version if `expected` still holds it, and notes it in tags.

    back: the version is the one that held it before, and `expected` is taken out of the history.
    Returns False, with nothing changed, when another caller was faster: compare anew.
    """
    with locked(client):
        past = history(client, alias)
        if past[-1:] != ([expected] if expected else []):
            return False
        if version == expected:
            return True
        past = past[:-1] if back else [*past, version]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        tags = {"since": now, "until": "", "after": expected or "", "reason": reason}
        for name, value in tags.items():
            client.set_model_version_tag(mlflow_registry.NAME, version, f"{alias}_{name}", value)
        client.set_registered_model_alias(mlflow_registry.NAME, alias, version)
        client.set_registered_model_tag(mlflow_registry.NAME, f"{alias}_history", ",".join(past))
        if alias == mlflow_registry.CHAMPION and holder(client, CHALLENGER) == version:
            client.delete_registered_model_alias(mlflow_registry.NAME, CHALLENGER)
        if expected is not None:
            client.set_model_version_tag(mlflow_registry.NAME, expected, f"{alias}_until", now)
    return True


@contextmanager
def locked(client: MlflowClient, patience: float = 2 * LOCK_SECONDS) -> Iterator[None]:
    """While the body runs, no other process or host changes an alias of this registry.

    Raises RuntimeError when it is not free after `patience` seconds.
    """
    began = time.monotonic()
    while True:
        try:
            client.create_registered_model(LOCK, description="an alias is being changed")
            break
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        with suppress(MlflowException):  # It may be gone by now.
            age = time.time() - client.get_registered_model(LOCK).creation_timestamp / 1000
            if age > LOCK_SECONDS:
                client.delete_registered_model(LOCK)
        if time.monotonic() - began > patience:
            raise RuntimeError(
                f"the registry is locked by another process; delete the model {LOCK!r} if not"
            )
        time.sleep(0.1)
    try:
        yield
    finally:
        client.delete_registered_model(LOCK)


def data_alias(name: str) -> str:
    """The alias of the best version on a data set: its name, as MLflow takes it."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    # `latest` and v1, v2, ... are MLflow's own.
    return f"data-{safe}" if safe == "latest" or re.fullmatch(r"v\d+", safe) else safe


def describe(client: MlflowClient, alias: str) -> str:
    """Who holds an alias, since when, and why, in words."""
    version = holder(client, alias)
    if version is None:
        return f"nobody holds {alias!r}"
    tags = client.get_model_version(mlflow_registry.NAME, version).tags
    since = tags.get(f"{alias}_since", "an unknown time")
    after = tags.get(f"{alias}_after")
    before = f" after version {after}" if after else ""
    return (
        f"{alias}: version {version} since {since}{before}: {tags.get(f'{alias}_reason', '')}"
    ).rstrip(": ")
