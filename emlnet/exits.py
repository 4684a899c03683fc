"""Exit codes of commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from emlnet.public_url import public_url

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
TERMINATED = 143
"""Exit code after SIGTERM."""
UNREAD = 141
"""Exit code when the reader of the output, such as `head`, has closed the pipe."""


def exit_code(
    command: Callable[[], object], errors: tuple[type[Exception], ...] = (ValueError, OSError)
) -> int:
    """Run a command; return its exit code: the int that it returns, else 0.

    errors: printed as one line on stderr, without secrets in URLs; the exit code is then 1.
    """
    try:
        answer = command()
        code = answer if isinstance(answer, int) else 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except errors as error:
        # Write a newline: it fails if the pipe is closed.
        if isinstance(error, BrokenPipeError) and not _is_read("\n"):
            return UNREAD
        print(f"error: {public_url(error)}", file=sys.stderr)
        code = 1
    finally:
        is_read = _is_read("")
    return code if is_read or code else UNREAD


def _is_read(text: str) -> bool:
    """Print a text and flush; return whether the pipe is open.  If not, silence stdout."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
