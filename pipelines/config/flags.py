"""Flags that tyro does not parse by itself: loss weights and presets."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tyro

from emlnet.losses.weighted import LossWeights
from emlnet.registry.mlflow_registry import connect, find_tracking_uri

BEST_WEIGHTS = "best-weights.json"
"""The result of a search over loss weights: a file, and an artifact of its MLflow run."""
RUN = re.compile("[0-9a-f]{32}")
"""The id of an MLflow run."""


def registry(argv: Sequence[str] = ()) -> tyro.constructors.ConstructorRegistry:
    """Return tyro's registry with a rule that parses loss weights such as `kl=10,cc=2,nss=1`.

    argv: all arguments; `--tracking-uri` among them names the store of `@RUN`.
    """
    uri, _ = take_flag(argv, "--tracking-uri")
    rules = tyro.constructors.ConstructorRegistry()

    @rules.primitive_rule
    def loss_weights(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[LossWeights] | None:
        if info.type is not LossWeights:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="kl=W,cc=W,...|@FILE|@RUN",
            instance_from_str=lambda given: read_loss_weights(given[0], uri),
            is_instance=lambda value: isinstance(value, LossWeights),
            str_from_instance=lambda value: [str(value)],
        )

    return rules


def read_loss_weights(text: str, tracking_uri: str | None = None) -> LossWeights:
    """Parse `kl=10,cc=2,nss=1`, or read `@FILE` or `@RUN_ID`, the result of a search.

    tracking_uri: the MLflow store of the run.  Raises ValueError if there are no loss weights.
    """
    if not text.startswith("@"):
        return LossWeights.parse(text)
    given = text[1:]
    if not RUN.fullmatch(given):
        return _loss_weights_of(Path(given).expanduser(), given)
    uri = find_tracking_uri(tracking_uri)
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = connect(uri).download_artifacts(given, BEST_WEIGHTS, folder)
        except Exception as error:  # Each kind of store has its own errors.
            raise ValueError(
                f"no {BEST_WEIGHTS} of run {given} in the MLflow store (--tracking-uri): {error}"
            ) from error
        return _loss_weights_of(Path(file), f"{BEST_WEIGHTS} of run {given}")


def _loss_weights_of(path: Path, name: str) -> LossWeights:
    try:
        return LossWeights(**json.loads(path.read_text())["weights"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{name} holds no loss weights: {error}") from error


def take_flag(argv: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """Return the flag's value (`FLAG VALUE` or `FLAG=VALUE`) and the other arguments."""
    rest = list(argv)
    for position, word in enumerate(rest):
        if word == flag and position + 1 < len(rest):
            return rest[position + 1], rest[:position] + rest[position + 2 :]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2], rest[:position] + rest[position + 1 :]
    return None, rest
