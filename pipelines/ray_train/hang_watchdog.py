"""In a worker: tells where training hangs, and ends a process that hangs for good."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 75
"""Of a worker that hung: a failure that may pass when it is started anew."""


class Watch:
    """Prints the stack of the thread that made it when that has made no progress for too long.

    timeout: seconds; a collective gives up somewhat later (`collective_timeout`), which ends the
    ranks that wait in one.  A rank that still hangs then is ended here.
    """

    def __init__(self, rank: int, timeout: float) -> None:
        self.rank, self.timeout = rank, timeout
        self.thread = threading.get_ident()
        self.last, self.paused, self.told = time.monotonic(), False, False
        self.over = threading.Event()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def beat(self) -> None:
        """Says that there was progress."""
        self.last, self.told = time.monotonic(), False

    def end(self) -> None:
        """Stops watching."""
        self.over.set()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Does not watch the body, which may take as long as it likes."""
        self.paused = True
        try:
            yield
        finally:
            self.beat()
            self.paused = False

    def _watch(self) -> None:
        while not self.over.wait(min(1.0, self.timeout / 10)):
            waited = time.monotonic() - self.last
            if self.paused or waited < self.timeout:
                continue
            if not self.told:
                self.told = True
                print(self.report(waited), file=sys.stderr, flush=True)
            if waited > self.timeout + 2 * grace(self.timeout):
                print(f"rank {self.rank}: still hangs, its process ends", file=sys.stderr)
                sys.stderr.flush()
                os._exit(EXIT_CODE)

    def report(self, waited: float) -> str:
        """Which rank hangs, for how many seconds, and where."""
        frame = sys._current_frames().get(self.thread)
        stack = "".join(traceback.format_stack(frame)) if frame else "its thread has ended"
        return f"rank {self.rank} has made no progress for {waited:.0f} s, it is at:\n{stack}"


def grace(timeout: float) -> float:
    """Seconds between telling that a rank hangs and ending those that wait for it."""
    return 5 + 0.1 * timeout


def collective_timeout(timeout: float) -> float:
    """Seconds after which a collective gives up: when each rank has told where it is."""
    return timeout + grace(timeout)
