"""Names and digests of configurations, to log runs and to tell them apart."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from emlnet.losses.weighted import LossWeights
from emlnet.public_url import public_url


def digest(**parts: Any) -> str:
    """Return the SHA-256 in hex of JSON values, dataclasses and paths."""

    def plain(value: Any) -> Any:
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)

    text = json.dumps(parts, default=plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def slug(text: str, length: int = 60, keep: str = "+-_.") -> str:
    """Turn a text into a file name: other characters than letters, digits and `keep` become -."""
    return "".join(c if c.isalnum() or c in keep else "-" for c in text)[:length]


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a config tree to dotted names and plain values, for logs and MLflow parameters.

    Secrets in URLs are removed; the MLflow store is left out.
    """
    flat: dict[str, Any] = {}
    for item in fields(tree):
        name, value = f"{prefix}{item.name}", getattr(tree, item.name)
        if item.name == "tracking_uri":
            continue
        if isinstance(value, LossWeights):
            flat[name] = str(value)
        elif is_dataclass(value):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, tuple):
            flat[name] = tuple(map(_public, value))
        else:
            flat[name] = _public(value)
    return flat


def _public(value: Any) -> Any:
    return public_url(value) if isinstance(value, str | Path) else value
