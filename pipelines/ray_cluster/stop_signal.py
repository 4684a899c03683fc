"""Word between a command and its workers: end now, and why there is no point in another attempt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SECONDS_BETWEEN_LOOKS = 1.0
TERMINATED = 143
"""Exit code of a command that SIGTERM ended."""

came: list[int] = []
"""Signals to end that came; with the first, workers that train save and end."""
_listeners: list[threading.Event] = []


class StoppedError(RuntimeError):
    """Training ended early because it was asked to; it goes on from its checkpoint."""


class _Bell:
    """Lives beside the command's own process, outlives any worker."""

    def __init__(self) -> None:
        self.rung, self.reason = False, ""

    def ring(self) -> None:
        self.rung = True

    def give_up(self, reason: str) -> None:
        self.reason = self.reason or reason

    def look(self) -> tuple[bool, str]:
        return self.rung, self.reason


def hang() -> Any:
    """A new bell, an actor on this machine: ring() ends training, give_up(reason) for good."""
    node = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_Bell).options(num_cpus=0, scheduling_strategy=strategy).remote()


@contextmanager
def listening(bell: Any) -> Iterator[None]:
    """While the body trains, SIGTERM or Ctrl-C rings the bell instead of ending this process."""
    over = threading.Event()

    def wait() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS / 2):
            if came:
                bell.ring.remote()
                return

    thread = threading.Thread(target=wait, name="bell", daemon=True)
    _listeners.append(over)
    thread.start()
    try:
        yield
    finally:
        over.set()
        _listeners.remove(over)
        thread.join()


def handle_termination() -> None:
    """Makes SIGTERM and Ctrl-C end this process in order: a checkpoint first, where workers train.

    A second one does not wait for that: there may be no workers, where machines are gone.  To be
    called when Ray has started, whose own handler aborts; only a main thread can.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def handler(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1 or not _listeners:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(TERMINATED)
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        print(f"{name}: saving a checkpoint, then ending; again, and it ends at once", flush=True)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def code_of_end() -> int:
    """Exit code of a command whose training was asked to end."""
    return 128 + came[0] if came else TERMINATED


class Ear:
    """In a worker: whether the bell was rung, known without waiting."""

    def __init__(self, bell: Any) -> None:
        self.rung = False
        if bell is not None:
            threading.Thread(target=self._listen, args=(bell,), name="ear", daemon=True).start()

    def _listen(self, bell: Any) -> None:
        pause = threading.Event()
        try:
            while not self.rung:
                self.rung, _ = ray.get(bell.look.remote())
                pause.wait(SECONDS_BETWEEN_LOOKS)
        except ray.exceptions.RayError:
            return  # The command is gone; Ray ends its workers.
