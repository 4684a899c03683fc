"""In a worker: end the process, and say where it was, when training hangs."""

from __future__ import annotations

import faulthandler
import math
import os
import sys
import threading
import time

EXIT_CODE = 75
"""Exit code of a worker that hung: a temporary failure, which a restart may mend."""
SECONDS_TO_FORWARD = 5
"""Ray forwards to the command what a process wrote only while that process lives."""


class HangWatchdog:
    """Ends this process after `timeout` seconds without progress, with the stacks of its threads.

    Ray Train then restarts all workers.  The other ranks wait in a collective, which fails when
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
            f"rank {self.rank} has made no progress for {self.timeout:g} s; it is ended at:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback()
        time.sleep(SECONDS_TO_FORWARD)
        os._exit(EXIT_CODE)
