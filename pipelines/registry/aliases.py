"""The aliases of the registered model, and their history.

The registered model's tag `<alias>_holders` is a JSON list of all holders, the present one last.
A rollback removes the last entry.  If two publishers set an alias at the same time, the later one
wins, and the history may lack the earlier one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from emlnet.registry.mlflow_registry import ABSENT, CHAMPION, NAME
from pipelines.config.identity import slug

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER = "challenger"
"""The alias of the latest model that did not become champion."""
Holder = dict[str, str]
"""A version that holds or held an alias: `version`, `since` (ISO 8601) and `reason`."""


def current_version(client: MlflowClient, alias: str) -> str | None:
    """Return the version that holds an alias; None if none does."""
    try:
        return str(client.get_model_version_by_alias(NAME, alias).version)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def history(client: MlflowClient, alias: str) -> list[Holder]:
    """Return all holders of an alias in order, the present one last; empty if there is none."""
    held = current_version(client, alias)
    if held is None:
        return []
    tags = client.get_registered_model(NAME).tags
    past: list[Holder] = json.loads(tags.get(f"{alias}_holders") or "[]")
    if past and past[-1]["version"] == held:
        return past
    return [*past, {"version": held, "since": "", "reason": "set elsewhere"}]


def set_alias(
    client: MlflowClient, alias: str, version: str, reason: str, past: Sequence[Holder]
) -> None:
    """Give an alias to a version and add it to the history.

    past: earlier holders, from `history`.  Raises RuntimeError if another publisher set the alias
    at the same time.
    """
    client.set_registered_model_alias(NAME, alias, version)
    found = current_version(client, alias)
    if found != version:
        raise RuntimeError(
            f"another publisher gave {alias!r} to version {found} at the same time; "
            f"promote version {version} again if it is better"
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    holders = [*past, {"version": version, "since": now, "reason": reason}]
    client.set_registered_model_tag(NAME, f"{alias}_holders", json.dumps(holders))
    if alias == CHAMPION and current_version(client, CHALLENGER) == version:
        client.delete_registered_model_alias(NAME, CHALLENGER)


def describe(client: MlflowClient, alias: str) -> str:
    """Describe the holder of an alias: version, date, predecessor, reason."""
    holders = history(client, alias)
    if not holders:
        return f"no version has the alias {alias!r}"
    *past, held = holders
    since = f" since {held['since']}" if held["since"] else ""
    after = f" after version {past[-1]['version']}" if past else ""
    return f"{alias}: version {held['version']}{since}{after}: {held['reason']}"


def data_alias(name: str) -> str:
    """Return the alias of the best version on a data set: its name, made valid for MLflow."""
    alias = slug(name, length=250, keep="-_")
    # MLflow reserves `latest` and v1, v2, ...
    return f"data-{alias}" if alias == "latest" or re.fullmatch(r"v\d+", alias) else alias
