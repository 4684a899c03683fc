"""What the end of a command of the pipeline is to the shell."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mlflow.exceptions import MlflowException

from emlnet import exits
from pipelines.ray_cluster.stop_signal import StoppedError, stopped_exit_code


def exit_code(command: Callable[[], object]) -> int:
    """As `emlnet.exits.exit_code`; also a failed run's error is a line and 1, SIGTERM gives 143."""

    def run() -> object:
        try:
            return command()
        except StoppedError as stopped:
            print(stopped, file=sys.stderr)
            return stopped_exit_code()

    return exits.exit_code(run, (ValueError, RuntimeError, OSError, MlflowException))
