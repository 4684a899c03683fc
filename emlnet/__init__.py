"""EML-NET: where people look in a picture. The science: torch and its kin, no Ray."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emlnet.inference.package import Package
    from emlnet.inference.predictor import Prediction
    from emlnet.registry.mlflow_registry import load

__all__ = ["Package", "Prediction", "__version__", "load"]
__version__ = "0.1.0"
HOMES = {
    "Package": "emlnet.inference.package",
    "Prediction": "emlnet.inference.predictor",
    "load": "emlnet.registry.mlflow_registry",
}


def __getattr__(name: str) -> Any:
    # Looked up at first use: `import emlnet` alone costs nothing.
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'emlnet' has no attribute {name!r}")
