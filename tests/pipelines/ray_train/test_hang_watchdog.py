"""A process that hangs says where, and is ended."""

import subprocess
import sys
import time

from pipelines.ray_train.hang_watchdog import EXIT_CODE, HangWatchdog


def test_a_process_that_hangs_is_ended_with_its_rank_and_its_stack() -> None:
    code = (
        "import time; from pipelines.ray_train.hang_watchdog import HangWatchdog\n"
        "def stuck_in_here(): time.sleep(100)\n"
        "HangWatchdog(3, 0.2); stuck_in_here()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == EXIT_CODE
    assert "rank 3 made no progress for 0.2 s and is ended; its stacks:" in ended.stderr
    assert "in stuck_in_here" in ended.stderr


def test_progress_and_pauses_keep_a_process_alive() -> None:
    watchdog = HangWatchdog(0, 0.5)
    watchdog.pause()
    time.sleep(1)
    for _ in range(8):
        watchdog.note_progress()
        time.sleep(0.1)
    watchdog.pause()
