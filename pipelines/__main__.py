"""`python -m pipelines COMMAND ...`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from pipelines.command_table import PIPELINES, PROGRAMS


def parse(argv: Sequence[str]) -> Any:
    """Parse arguments, the command first, to the dataclass of the command."""
    return PIPELINES.parse(join_sent(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return PIPELINES.main(join_sent(sys.argv[1:] if argv is None else argv))


def join_sent(argv: Sequence[str]) -> list[str]:
    """Join the command after `submit` to one argument, so that its flags are not parsed here."""
    words = list(argv)
    if words[:1] == ["submit"]:
        words = [word for word in words if word != "--"]
        starts = [n for n, word in enumerate(words) if word in (*PIPELINES.commands, *PROGRAMS)]
        if starts[1:]:
            words[starts[1] :] = [shlex.join(words[starts[1] :])]
    return words


if __name__ == "__main__":
    sys.exit(main())
