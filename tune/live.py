"""What a search shows while it runs: a table in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tune.pareto import choose, name, rank
from tune.results import TrialRecord, ended, find_records

NUM_BEST = 12
"""Rows of the table, however many trials there are."""
NUM_RUNNING = 8
NUM_FAILED = 2
SECONDS_BETWEEN_LINES = 60
COLUMNS = ("ig", "nss", "cc", "kl", "sim")


class Display:
    """The state of a search, from its records.

    at_once: trials at the same time.  final: show the final runs.
    """

    def __init__(
        self,
        search: Path,
        objectives: tuple[str, ...],
        num_trials: int,
        at_once: int,
        final: bool = False,
        console: Console | None = None,
    ) -> None:
        self.search, self.objectives, self.final = search, objectives, final
        self.num_trials, self.at_once = num_trials, at_once
        self.console = console or Console(file=sys.stdout)
        self.live: Live | None = None
        self.last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
            self.update()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self.live.stop()

    def update(self) -> None:
        """Shows the records as they are now."""
        now = time.monotonic()
        if not self.live and now - self.last_line < SECONDS_BETWEEN_LINES:
            return
        self.last_line = now
        records = find_records(self.search, final=self.final)
        if self.live:
            self.live.update(self.render(records), refresh=True)
        else:
            print(self.headline(records), flush=True)

    def headline(self, records: Sequence[TrialRecord]) -> str:
        """Where the search is, in one line: counts, time left, the best so far."""
        counts = {
            state: sum(record.state == state for record in records)
            for state in ("running", "stopped", "failed")
        }
        parts = [
            f"{len(ended(records))}/{self.num_trials} {'final runs' if self.final else 'trials'}"
        ]
        if counts["stopped"]:
            parts.append(f"{counts['stopped']} of them stopped early")
        if counts["failed"]:
            parts.append(f"{counts['failed']} failed")
        left = seconds_left(records, self.num_trials, self.at_once)
        if left is not None:
            parts.append(f"{duration(left)} left")
        best = choose(records, self.objectives) if not self.final else None
        if best:
            scores = ", ".join(f"{o} {best.winner.scores[o]:.4f}" for o in self.objectives)
            parts.append(f"best {scores} with {name(best.winner)}")
        return "; ".join(parts)

    def render(self, records: Sequence[TrialRecord]) -> Group:
        """The headline, the trials that run, and the best ones."""
        columns = (*self.objectives, *(each for each in COLUMNS if each not in self.objectives))
        columns = columns[: max(len(self.objectives), (self.console.width - 50) // 9)]
        table = Table(box=None, pad_edge=False)
        table.add_column("weights", overflow="ellipsis", no_wrap=True)
        for column in columns:
            table.add_column(column, justify="right", min_width=7)
        table.add_column("epoch", justify="right", min_width=5)
        table.add_column("state", min_width=8)
        running = [record for record in records if record.state == "running"][:NUM_RUNNING]
        ranked = rank(records, self.objectives[0])
        failed = [record for record in records if record.state == "failed"]
        shown = [*running, *ranked[:NUM_BEST]]
        for record in shown:
            values = [f"{record.scores[c]:.4f}" if record.scores else "" for c in columns]
            style = {"running": "cyan", "stopped": "dim"}.get(record.state, "")
            label = f"{name(record)} seed {record.spec.seed}" if self.final else name(record)
            epochs = f"{record.num_trained}/{record.num_epochs}"
            table.add_row(label, *values, epochs, record.state, style=style)
        more = len(ended(records)) - len(shown) + len(running) - len(failed)
        rest = [Text(f"... and {more} more", style="dim")] if more > 0 else []
        for record in failed[-NUM_FAILED:]:
            told = f"failed: {name(record)}: {record.cause}"
            rest.append(Text(told, style="red", no_wrap=True, overflow="ellipsis"))
        return Group(Text(self.headline(records), style="bold"), table, *rest)


def seconds_left(records: Sequence[TrialRecord], num_trials: int, at_once: int) -> float | None:
    """How long what is left takes, if it takes as long as what ended; None before one did."""
    done = [record.seconds for record in ended(records) if record.state != "failed"]
    if not done:
        return None
    mean = sum(done) / len(done)
    running = sum(min(r.seconds, mean) for r in records if r.state == "running")
    return max(0.0, mean * (num_trials - len(ended(records))) - running) / at_once


def duration(seconds: float) -> str:
    """Seconds in words: `40 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
