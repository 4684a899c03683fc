"""A command that is told to stop does so in order."""

import signal
import time

import pytest

from pipelines.ray_cluster import stop_signal


class Recorder(stop_signal.StopSignal):
    """A stop signal without Ray."""

    def __init__(self) -> None:
        self.requests = 0

    def request_stop(self) -> None:
        self.requests += 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_at_once_unless_workers_train(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(stop_signal, "received", [])
    recorder = Recorder()
    try:
        stop_signal.handle_signals()
        with stop_signal.forward_signals(recorder):
            signal.raise_signal(number)
            deadline = time.monotonic() + 10
            while not recorder.requests and time.monotonic() < deadline:
                time.sleep(0.01)
        assert recorder.requests == 1
        assert stop_signal.stopped_exit_code() == 128 + number
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == stop_signal.TERMINATED
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
