"""EML-NET: predict where people look in a picture. Needs torch, but not Ray."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emlnet.inference.package import Package
    from emlnet.inference.predictor import Prediction
    from emlnet.registry.model_sources import load, predict

__all__ = ["Package", "Prediction", "__version__", "load", "predict"]
__version__ = "0.1.0"
HOMES = {
    "Package": "emlnet.inference.package",
    "Prediction": "emlnet.inference.predictor",
    "load": "emlnet.registry.model_sources",
    "predict": "emlnet.registry.model_sources",
}


def __getattr__(name: str) -> Any:
    # Import at first use, so that `import emlnet` is fast.
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'emlnet' has no attribute {name!r}")
