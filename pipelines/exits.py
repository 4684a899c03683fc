"""What a command's end is to the shell."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mlflow.exceptions import MlflowException

from pipelines.bell import INTERRUPTED, TERMINATED, StoppedError


def exit_code(command: Callable[[], object]) -> int:
    """Runs a command; returns the number that it returns, or else 0.

    A user's error is one line on stderr and 1; Ctrl-C gives 130, SIGTERM 143.
    """
    try:
        answer = command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        return TERMINATED
    except (ValueError, RuntimeError, OSError, MlflowException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return answer if isinstance(answer, int) else 0
