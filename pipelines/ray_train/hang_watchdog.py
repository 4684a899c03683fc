"""In a worker: report where training hangs, and end a process that stays hung."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 75
"""Exit code of a worker that hung: a temporary failure, which a restart may mend."""


class HangWatchdog:
    """Prints the stack of the thread that made it when that makes no progress for too long.

    timeout: seconds.  A collective gives up somewhat later (`collective_timeout`), which ends the
    ranks that wait in one; a rank that hangs even then is ended here.
    """

    def __init__(self, rank: int, timeout: float) -> None:
        self.rank, self.timeout = rank, timeout
        self.thread = threading.get_ident()
        self.last_progress, self.paused, self.reported = time.monotonic(), False, False
        self.stopped = threading.Event()
        threading.Thread(target=self._watch, name="hang watchdog", daemon=True).start()

    def note_progress(self) -> None:
        """Restart the clock."""
        self.last_progress, self.reported = time.monotonic(), False

    def stop(self) -> None:
        """Stop watching."""
        self.stopped.set()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Do not watch the body, which may take any time."""
        self.paused = True
        try:
            yield
        finally:
            self.note_progress()
            self.paused = False

    def _watch(self) -> None:
        while not self.stopped.wait(min(1.0, self.timeout / 10)):
            waited = time.monotonic() - self.last_progress
            if self.paused or waited < self.timeout:
                continue
            if not self.reported:
                self.reported = True
                print(self.report(waited), file=sys.stderr, flush=True)
            if waited > self.timeout + 2 * grace(self.timeout):
                print(
                    f"rank {self.rank}: still hangs, ending its process",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EXIT_CODE)

    def report(self, waited: float) -> str:
        """Return the rank, the seconds without progress, and the stack of its thread."""
        frame = sys._current_frames().get(self.thread)
        stack = "".join(traceback.format_stack(frame)) if frame else "its thread has ended"
        return f"rank {self.rank} has made no progress for {waited:.0f} s, it is at:\n{stack}"


def grace(timeout: float) -> float:
    """Seconds between the report of a hang and the end of those that wait for the hung rank."""
    return 5 + 0.1 * timeout


def collective_timeout(timeout: float) -> float:
    """Seconds after which a collective gives up: every rank has reported by then."""
    return timeout + grace(timeout)
