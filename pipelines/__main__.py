"""`python -m pipelines COMMAND ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pipelines.command_table import PIPELINES, ROOMS


def parse(argv: Sequence[str]) -> Any:
    """Parse arguments, the command first, to the dataclass of the command."""
    return PIPELINES.parse(separate(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return PIPELINES.main(separate(sys.argv[1:] if argv is None else argv))


def separate(argv: Sequence[str]) -> list[str]:
    """Put `--` between the flags of `submit` and the command that it sends."""
    words = list(argv)
    if words[:1] == ["submit"] and "--" not in words:
        starts = [n for n, word in enumerate(words) if word in (*PIPELINES.commands, *ROOMS)]
        if starts[1:]:
            words.insert(starts[1], "--")
    return words


if __name__ == "__main__":
    sys.exit(main())
