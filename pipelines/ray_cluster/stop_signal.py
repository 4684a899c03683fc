"""The signal between a command and its workers: save and stop, or give up for a reason."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SECONDS_BETWEEN_POLLS = 0.5
TERMINATED = 143
"""Exit code of a command that SIGTERM ended."""

received: list[int] = []
"""SIGTERM and SIGINT that this process received, in order."""
_trainings: list[StopSignal] = []
"""Stop signals of the trainings that run in this process."""


class StoppedError(RuntimeError):
    """Training was asked to stop; the same command resumes it from its checkpoint."""


class _State:
    """Actor with the stop request and the reason to give up; it outlives the workers."""

    def __init__(self) -> None:
        self.stop, self.reason = False, ""

    def request_stop(self) -> None:
        self.stop = True

    def give_up(self, reason: str) -> None:
        self.reason = self.reason or reason

    def get(self) -> tuple[bool, str]:
        return self.stop, self.reason


class StopSignal:
    """Stop request that a command shares with its workers; it is pickled to them."""

    def __init__(self) -> None:
        node = ray.get_runtime_context().get_node_id()
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        self._state = ray.remote(_State).options(num_cpus=0, scheduling_strategy=strategy).remote()
        self._stop, self._asked, self._answer = False, 0.0, None

    def request_stop(self) -> None:
        """Ask workers to save a checkpoint and stop; do not wait for them."""
        self._state.request_stop.remote()

    def is_stop_requested(self) -> bool:
        """Whether a stop was requested, by the latest answer; does not wait for a new one."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stop, _ = ray.get(self._answer)
            self._answer = None
        if self._answer is None and time.monotonic() - self._asked > SECONDS_BETWEEN_POLLS:
            self._asked, self._answer = time.monotonic(), self._state.get.remote()
        return self._stop

    def give_up(self, reason: str) -> None:
        """Record why another attempt would fail too; the first reason is kept."""
        ray.get(self._state.give_up.remote(reason))

    def reason(self) -> str:
        """Return why a worker gave up; empty if none did."""
        _, reason = ray.get(self._state.get.remote())
        return str(reason)


@contextmanager
def forward_signals(stop_signal: StopSignal) -> Iterator[None]:
    """Within the body, the first SIGTERM or Ctrl-C only asks the workers to stop."""
    _trainings.append(stop_signal)
    if received:
        stop_signal.request_stop()
    try:
        yield
    finally:
        _trainings.remove(stop_signal)


def handle_signals() -> None:
    """Let SIGTERM and Ctrl-C end this process, after running trainings have saved a checkpoint.

    A second signal ends it at once: workers on lost machines never answer.  Call this in the main
    thread after Ray has started, because Ray installs a handler that aborts.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def handler(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1 or not _trainings:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(TERMINATED)
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        print(f"{name}: saving a checkpoint, then stopping; send it again to stop now", flush=True)
        for training in _trainings:
            # Use a thread: the handler may have interrupted a call that holds Ray's locks.
            threading.Thread(target=training.request_stop, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def stopped_exit_code() -> int:
    """Return the exit code of a command whose training was asked to stop."""
    return 128 + received[0] if received else TERMINATED
