"""What a command's end is to the shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
TERMINATED = 143
"""Exit code after SIGTERM."""
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
        code = answer if isinstance(answer, int) else 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except errors as error:
        # What could not be written may be forgotten by now, so something is.
        if isinstance(error, BrokenPipeError) and not _is_read("\n"):
            return UNREAD
        print(f"error: {error}", file=sys.stderr)
        code = 1
    finally:
        is_read = _is_read("")
    return code if is_read or code else UNREAD


def _is_read(text: str) -> bool:
    """Prints a text and what is held back; if its reader has left, nothing is printed any more."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
