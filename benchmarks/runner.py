"""Compare two sides of a benchmark: each runs in a process of its own, and they take turns.

    from benchmarks.result_table import save
    from benchmarks.runner import Side, compare

    row = compare(
        "loss, forward and backward",           # the part
        "loop over the images",                 # what it is measured against
        Side("benchmarks.loss:ours"),           # each side a process of its own ...
        Side("benchmarks.loss:baseline"),       # ... or any callable in this one
        reach=3,
    )
    save("loss", [row], threads=2)              # benchmarks/results/loss.json and table.md

A side is called once for each repetition; it returns its own seconds, or None to be timed from
outside. Repetitions of the sides run back to back, and the order is reversed each time, so that a
slow moment of the machine affects both sides.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.result_table import ROOT, Row, line

REPEATS = 5

Repetition = Callable[[], float | None]
"""One repetition of a side: its seconds, or None to be timed from outside."""


class Side:
    """One side of a comparison in a process of its own, which repeats when it is called.

    target: `module:function`; called there once with `options`, it returns what to repeat.
    threads: torch's and OpenMP's.  env: more of the process's environment.  python: its
    interpreter.
    """

    def __init__(
        self,
        target: str,
        /,
        *,
        threads: int = 1,
        env: dict[str, str] | None = None,
        python: str = sys.executable,
        **options: Any,
    ) -> None:
        self.peaks: list[int] = []
        """Most memory in use during each repetition above what the process began with, bytes."""
        self.notes: dict[str, Any] = {}
        """What the latest repetition returned, where that is a dict."""
        command = [python, "-m", "benchmarks.runner", "--side", target]
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads), "--options", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **(env or {})},
        )
        self._answer()

    def __call__(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.peaks.append(answer["peak"])
        self.notes = answer["notes"]
        return float(answer["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(
    part: str,
    against: str,
    ours: Repetition,
    baseline: Repetition,
    *,
    reach: float | None = None,
    repeats: int = REPEATS,
    warm: int = 1,
    **about: Any,
) -> Row:
    """Time both sides in alternating repetitions, after `warm` that do not count; return a row."""
    own, theirs = alternate((ours, baseline), repeats=repeats, warm=warm)
    row = Row(part=part, against=against, ours=own, baseline=theirs, reach=reach, about=about)
    print(line(row), flush=True)
    return row


def alternate(
    sides: Sequence[Repetition], *, repeats: int = REPEATS, warm: int = 1
) -> list[tuple[float, ...]]:
    """Return the seconds of each side's repetitions, in turn, after `warm` that do not count."""
    seconds: list[list[float]] = [[] for _ in sides]
    for repetition in range(-warm, repeats):
        turn = list(zip(sides, seconds, strict=True))
        for side, kept in turn if repetition % 2 == 0 else reversed(turn):
            start = time.perf_counter()
            own = side()
            taken = time.perf_counter() - start if own is None else own
            if repetition >= 0:
                kept.append(taken)
    return [tuple(kept) for kept in seconds]


def compare_memory(part: str, against: str, ours: Side, baseline: Side, **about: Any) -> Row:
    """Return a row of the peak memory of each repetition; the target is at most the baseline's.

    Both sides have run before, so memory that a side keeps counts as its own.
    """
    row = Row(
        part=part,
        against=against,
        ours=tuple(peak / 2**20 for peak in ours.peaks),
        baseline=tuple(peak / 2**20 for peak in baseline.peaks),
        reach=1,
        unit="MiB",
        about=about,
    )
    print(line(row), flush=True)
    return row


def reset_peak() -> int:
    """Reset the peak of this process's memory (Linux); return the bytes that are in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Return the peak memory of this process since `reset_peak`, in bytes."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(text.split()[1] for text in status if text.startswith("VmHWM")))


def serve(target: str, threads: int, options: dict[str, Any]) -> None:
    """Run the process of a Side: one repetition for each line on standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Libraries may print, which would garble the answers.
    import torch

    torch.set_num_threads(threads)
    module, _, function = target.partition(":")
    repeat = getattr(importlib.import_module(module), function)(**options)
    before = reset_peak()
    print("{}", file=answers, flush=True)
    for _ in sys.stdin:
        reset_peak()
        start = time.perf_counter()
        returned = repeat()
        seconds = time.perf_counter() - start
        if isinstance(returned, float):
            seconds = returned
        notes = returned if isinstance(returned, dict) else {}
        answer = {"seconds": seconds, "peak": peak() - before, "notes": notes}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One side of a comparison; see Side.")
    parser.add_argument("--side", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--options", type=json.loads, default={})
    given = parser.parse_args()
    serve(given.side, given.threads, given.options)
