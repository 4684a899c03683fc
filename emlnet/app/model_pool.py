"""Models of the page: the named ones, or all of the registry."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from emlnet.inference.model_card import first_lines, write_card
from emlnet.inference.package import BUILTIN, describe
from emlnet.inference.predictor import Prediction
from emlnet.registry import mlflow_registry, model_sources
from emlnet.registry.mlflow_registry import CHAMPION, NAME

NUM_LOADED = 2
"""Models kept in memory: as many as the page compares."""


class ModelPool:
    """The models of the page, each loaded at first use.

    sources: the source of each model, by its name on the page.
    """

    def __init__(
        self, sources: dict[str, str], tracking_uri: str | None = None, device: str = "cpu"
    ) -> None:
        self.sources = sources
        load = partial(model_sources.load, device=device, tracking_uri=tracking_uri)
        self._load = lru_cache(NUM_LOADED)(lambda name: load(sources[name]))
        self._lock = threading.Lock()

    def predict(self, name: str, picture: NDArray[np.uint8], flip: bool) -> Prediction:
        """Predict a picture with the named model; one picture at a time."""
        with self._lock:
            return self._load(name).predict(picture, flip)

    def card(self, name: str) -> str:
        """Return the first lines of the model's card."""
        with self._lock:
            package = self._load(name)
        encoders = describe(package.model)["encoders"]
        return first_lines(write_card(encoders, package.kind, package.about))


def find_sources(models: Sequence[str], tracking_uri: str | None) -> dict[str, str]:
    """Return the sources of the models by name.

    Those given; else those of the registry, the champion first, and the built-in one.  Without a
    registry, only the built-in one.
    """
    if models:
        return {name: name for name in models}
    if not mlflow_registry.has_store(tracking_uri):
        return {BUILTIN: BUILTIN}
    uri = mlflow_registry.find_tracking_uri(tracking_uri)
    client = mlflow_registry.connect(uri)
    with mlflow_registry.store_errors(uri):
        aliases = mlflow_registry.find_aliases(client)
        known = client.search_model_versions(f"name='{NAME}'")
    order = sorted(aliases, key=lambda alias: (alias != CHAMPION, alias))
    versions = sorted((int(found.version) for found in known), reverse=True)
    named = {f"{a} (version {aliases[a]})": f"models:/{NAME}@{a}" for a in order}
    numbered = {f"version {number}": f"models:/{NAME}/{number}" for number in versions}
    return named | numbered | {BUILTIN: BUILTIN}
