"""A process that hangs says where, and is ended when it hangs for good."""

import subprocess
import sys
import threading
import time
from typing import Any

from pipelines.ray_train import hang_watchdog


def test_a_hanging_thread_is_reported_with_its_rank_and_its_stack(capsys: Any) -> None:
    over, watched = threading.Event(), []

    def stuck_in_here() -> None:
        watched.append(hang_watchdog.HangWatchdog(rank=3, timeout=0.2))
        over.wait(20)

    thread = threading.Thread(target=stuck_in_here)
    thread.start()
    told = ""
    deadline = time.monotonic() + 20
    while "stuck_in_here" not in told and time.monotonic() < deadline:
        time.sleep(0.05)
        told += capsys.readouterr().err
    over.set()
    thread.join()
    watched[0].stop()
    assert "rank 3 has made no progress for 0 s, it is at:" in told
    assert "over.wait(20)" in told


def test_progress_and_pauses_keep_a_watch_quiet(capsys: Any) -> None:
    one = hang_watchdog.HangWatchdog(rank=0, timeout=0.5)
    with one.pause():
        time.sleep(1.2)
    for _ in range(12):
        time.sleep(0.1)
        one.note_progress()
    one.stop()
    assert capsys.readouterr().err == ""


def test_a_process_that_hangs_for_good_is_ended() -> None:
    code = (
        "import time; from pipelines.ray_train import hang_watchdog\n"
        "hang_watchdog.grace = lambda timeout: 0.2\n"
        "hang_watchdog.HangWatchdog(0, 0.2); time.sleep(100)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == hang_watchdog.EXIT_CODE
    assert "rank 0: still hangs" in ended.stderr
