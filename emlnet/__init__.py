"""EML-NET: where people look in a picture. The science: torch and its kin, no Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emlnet.package import Package, Prediction, load

__all__ = ["Package", "Prediction", "__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Looked up at first use: `import emlnet` alone costs nothing.
    if name in __all__:
        from emlnet import package

        return getattr(package, name)
    raise AttributeError(f"module 'emlnet' has no attribute {name!r}")
