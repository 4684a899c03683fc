"""The models that the page offers: named ones, or all of the registry."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emlnet.inference.model_card import first_lines, write_card
from emlnet.inference.package import Package, describe
from emlnet.inference.predictor import Prediction
from emlnet.registry import mlflow_registry

NUM_LOADED = 2
"""Models that are kept in memory: as many as the page compares."""


@dataclass(kw_only=True)
class ModelShelf:
    """The models of the page, each loaded when it is first asked for.

    sources: where each comes from, by the name that the page shows.
    """

    sources: dict[str, str]
    tracking_uri: str | None = None
    device: str = "cpu"
    _loaded: dict[str, Package] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def predict(self, name: str, picture: NDArray[np.uint8], flip: bool) -> Prediction:
        """Return the prediction of the model of that name; one picture at a time."""
        with self._lock:
            return self._load(name).predict(picture, flip)

    def card(self, name: str) -> str:
        """Return the first lines of the model's card."""
        with self._lock:
            package = self._load(name)
        encoders = describe(package.model)["encoders"]
        return first_lines(write_card(encoders, package.kind, package.about))

    def _load(self, name: str) -> Package:
        if name not in self._loaded:
            while len(self._loaded) >= NUM_LOADED:
                self._loaded.pop(next(iter(self._loaded)))
            self._loaded[name] = mlflow_registry.load(
                self.sources[name], self.device, tracking_uri=self.tracking_uri
            )
        return self._loaded[name]


def find_sources(models: Sequence[str], tracking_uri: str | None) -> dict[str, str]:
    """Return the models to offer by name: `models`, or else the registry's, the champion first.

    Raises ValueError when none is named and there is no registry.
    """
    if models:
        names = [
            "/".join(Path(name).parts[-2:]) if Path(name).exists() else name for name in models
        ]
        if len(set(names)) < len(names):
            names = list(models)
        return dict(zip(names, models, strict=True))
    uri = mlflow_registry.find_tracking_uri(tracking_uri)
    client = mlflow_registry.connect(uri)
    with mlflow_registry.store_errors(uri):
        known = client.search_model_versions(f"name='{mlflow_registry.NAME}'")
        if not known:
            raise mlflow_registry.NotRegisteredError(mlflow_registry.NONE_REGISTERED)
        aliases = client.get_registered_model(mlflow_registry.NAME).aliases
    order = sorted(aliases, key=lambda alias: (alias != mlflow_registry.CHAMPION, alias))
    versions = sorted((int(found.version) for found in known), reverse=True)
    return {f"{a} (version {aliases[a]})": f"models:/{mlflow_registry.NAME}@{a}" for a in order} | {
        f"version {v}": f"models:/{mlflow_registry.NAME}/{v}" for v in versions
    }
