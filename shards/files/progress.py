"""Progress of long work: a bar on a terminal, a line every ten seconds in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


class _Lines:
    """Standard error for tqdm, which writes a new line instead of overwriting the last one."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            print(text, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Do nothing: each line is flushed."""


def progress_bar(total: int, title: str, unit: str, disable: bool = False) -> tqdm[Any]:
    """Return a tqdm bar, which prints lines when standard error is not a terminal."""
    if sys.stderr.isatty():
        return tqdm(total=total, desc=title, unit=unit, disable=disable)
    return tqdm(
        total=total,
        desc=title,
        unit=unit,
        disable=disable,
        file=_Lines(),
        mininterval=SECONDS_BETWEEN_LINES,
        bar_format="{desc}: {n_fmt}/{total_fmt} {unit}s, {remaining} left",
    )
