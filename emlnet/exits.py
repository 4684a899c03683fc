"""What a command's end is to the shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
UNREAD = 141
"""Exit code when what reads the output, as `head` does, has left before its end."""


def exit_code(
    command: Callable[[], object], errors: tuple[type[Exception], ...] = (ValueError, OSError)
) -> int:
    """Runs a command; returns the number that it returns, or else 0.

    errors: what a user can mend, a line on stderr and 1.
    """
    try:
        answer = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except errors as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return UNREAD
        print(f"error: {error}", file=sys.stderr)
        return 1
    return answer if isinstance(answer, int) else 0


def _nobody_reads() -> bool:
    """Whether the output's reader has left; from then on nothing is written to it."""
    try:
        print(flush=True)  # What could not be written before may be forgotten.
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
