"""Optional packages: the extras of `pip install "emlnet[EXTRA]"`."""

from __future__ import annotations

from importlib.util import find_spec


def require_extra(extra: str, *modules: str) -> None:
    """Raise ValueError naming the extra to install if one of its modules is missing."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"not installed: {', '.join(missing)}; install the extra {extra!r} with "
            f'pip install "emlnet[{extra}]"'
        )
