"""The signal from a command to its workers: save and stop, or give up, with the reason."""

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
"""Those of this process that run; each saves and stops at the first signal."""


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
        self._stop, self._asked, self._answer = False, 0.0, None

    def request_stop(self) -> None:
        """Ask workers to save a checkpoint and stop; returns at once."""
        self._state.request_stop.remote()

    def is_stop_requested(self) -> bool:
        """Whether workers were asked to stop, by the latest answer; never waits for one."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stop, _ = ray.get(self._answer)
            self._answer = None
        if self._answer is None and time.monotonic() - self._asked > SECONDS_BETWEEN_POLLS:
            self._asked, self._answer = time.monotonic(), self._state.get.remote()
        return self._stop

    def give_up(self, reason: str) -> None:
        """Note why another attempt would fail too; the first reason is kept."""
        ray.get(self._state.give_up.remote(reason))

    def reason(self) -> str:
        """Return why a worker gave up, empty when none did."""
        _, reason = ray.get(self._state.get.remote())
        return str(reason)


@contextmanager
def forward_signals(stop_signal: StopSignal) -> Iterator[None]:
    """While the body trains, SIGTERM or Ctrl-C asks its workers to stop and ends no process."""
    _trainings.append(stop_signal)
    if received:
        stop_signal.request_stop()
    try:
        yield
    finally:
        _trainings.remove(stop_signal)


def handle_signals() -> None:
    """Make SIGTERM and Ctrl-C end this process in order: a checkpoint first, where workers train.

    A second one ends it at once: where machines are gone, no worker may answer.  Call this in the
    main thread after Ray has started, because Ray installs a handler that aborts.
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
            # The handler may have interrupted a call that holds Ray's locks; a thread waits.
            threading.Thread(target=training.request_stop, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def stopped_exit_code() -> int:
    """Return the exit code of a command whose training was asked to stop."""
    return 128 + received[0] if received else TERMINATED
