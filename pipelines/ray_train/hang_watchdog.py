"""In a worker: if training hangs, print the threads' stacks and end the process."""

from __future__ import annotations

import faulthandler
import math
import os
import sys
import threading
import time

EXIT_CODE = 75
"""Exit code of a worker that hung: EX_TEMPFAIL, because a restart may help."""
SECONDS_TO_FORWARD = 5
"""Time for Ray to forward the output, which it does only while the process lives."""


class HangWatchdog:
    """Ends this process after `timeout` seconds without progress, and prints its threads' stacks.

    Ray Train then restarts all workers.  The other ranks wait in a collective, which fails because
    this process is gone.
    """

    def __init__(self, rank: int, timeout: float) -> None:
        self.rank, self.timeout = rank, timeout
        self.note_progress()
        threading.Thread(target=self._watch, name="hang watchdog", daemon=True).start()

    def note_progress(self) -> None:
        """Restart the clock."""
        self.deadline = time.monotonic() + self.timeout

    def pause(self) -> None:
        """Stop the clock until the next progress."""
        self.deadline = math.inf

    def _watch(self) -> None:
        while time.monotonic() < self.deadline:
            time.sleep(min(1.0, self.timeout / 10))
        print(
            f"rank {self.rank} made no progress for {self.timeout:g} s and is ended; its stacks:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback()
        time.sleep(SECONDS_TO_FORWARD)
        os._exit(EXIT_CODE)
