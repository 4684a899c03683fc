"""The signal from a command to its workers: save and stop, or give up, with the reason."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SECONDS_BETWEEN_POLLS = 1.0
TERMINATED = 143
"""Exit code of a command that SIGTERM ended."""

received: list[int] = []
"""SIGTERM and SIGINT that this process received, in order."""
_trainings: list[threading.Event] = []
"""One for each training of this process, which saves and stops at the first of them."""


class StoppedError(RuntimeError):
    """Training was asked to stop; the same command resumes it from its checkpoint."""


class _State:
    """Whether to stop, and why to give up: an actor beside the command, which outlives workers."""

    def __init__(self) -> None:
        self.stop, self.reason = False, ""

    def request_stop(self) -> None:
        self.stop = True

    def give_up(self, reason: str) -> None:
        self.reason = self.reason or reason

    def get(self) -> tuple[bool, str]:
        return self.stop, self.reason


class StopSignal:
    """Shared by a command and its workers: made in the command, pickled to the workers."""

    def __init__(self) -> None:
        node = ray.get_runtime_context().get_node_id()
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        self._state = ray.remote(_State).options(num_cpus=0, scheduling_strategy=strategy).remote()

    def request_stop(self) -> None:
        """Ask workers to save a checkpoint and stop; returns at once."""
        self._state.request_stop.remote()

    def give_up(self, reason: str) -> None:
        """Note why another attempt would fail too; the first reason is kept."""
        ray.get(self._state.give_up.remote(reason))

    def is_stop_requested(self) -> bool:
        """Whether workers were asked to stop."""
        stop, _ = ray.get(self._state.get.remote())
        return bool(stop)

    def reason(self) -> str:
        """Why a worker gave up, empty when none did."""
        _, reason = ray.get(self._state.get.remote())
        return str(reason)


@contextmanager
def forward_signals(stop_signal: StopSignal) -> Iterator[None]:
    """While the body trains, SIGTERM or Ctrl-C asks its workers to stop and ends no process."""
    over = threading.Event()

    def wait() -> None:
        while not over.wait(SECONDS_BETWEEN_POLLS / 2):
            if received:
                stop_signal.request_stop()
                return

    # A handler may interrupt Ray's own locks, so a thread calls Ray.
    thread = threading.Thread(target=wait, name="forward signals", daemon=True)
    _trainings.append(over)
    thread.start()
    try:
        yield
    finally:
        over.set()
        _trainings.remove(over)
        thread.join()


def handle_signals() -> None:
    """Make SIGTERM and Ctrl-C end this process in order: a checkpoint first, where workers train.

    A second one does not wait: there may be no workers where machines are gone.  To be called
    when Ray has started, whose own handler aborts; only a main thread can.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def handler(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1 or not _trainings:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(TERMINATED)
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        print(f"{name}: saving a checkpoint, then stopping; send it again to stop now", flush=True)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def stopped_exit_code() -> int:
    """Exit code of a command whose training was asked to stop."""
    return 128 + received[0] if received else TERMINATED


class StopListener:
    """In a worker: follows a stop signal in a thread, so that nobody waits for the answer."""

    def __init__(self, stop_signal: StopSignal) -> None:
        self.stop_requested = False
        threading.Thread(
            target=self._listen, args=(stop_signal,), name="stop listener", daemon=True
        ).start()

    def _listen(self, stop_signal: StopSignal) -> None:
        pause = threading.Event()
        try:
            while not self.stop_requested:
                self.stop_requested = stop_signal.is_stop_requested()
                pause.wait(SECONDS_BETWEEN_POLLS)
        except ray.exceptions.RayError:
            return  # The command is gone; Ray ends its workers.
