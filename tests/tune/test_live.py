"""What a search shows while it runs."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from tune.live import Display, duration, seconds_left


def display(tmp_path, width=100, **changes):
    console = Console(file=io.StringIO(), width=width, height=50, force_terminal=True)
    return Display(tmp_path, ("ig",), 120, 2, console=console, **changes)


def test_a_hundred_trials_fit_a_screen(tmp_path, make_record):
    records = [make_record(n, n / 100) for n in range(98)]
    records += [make_record(98, 0.2, state="running", num_epochs=4)]
    records += [make_record(99, 0.2, state="failed", cause="the loss is not finite")]
    shown = display(tmp_path)
    shown.console.print(shown.render(records))
    lines = shown.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) < 24
    assert "99/120 trials" in lines[0]
    assert "best ig 0.9700" in lines[0]
    text = "\n".join(lines)
    assert "running" in text
    assert "the loss is not finite" in text
    assert "and 86 more" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(tmp_path, make_record, width):
    shown = display(tmp_path, width)
    shown.console.print(shown.render([make_record(n, n / 10) for n in range(30)]))
    plain = shown.console.file.getvalue()  # type: ignore[attr-defined]
    for line in re.sub(r"\x1b\[[0-9;]*m", "", plain).splitlines():
        assert len(line) <= width


def test_away_from_a_terminal_there_is_a_line_a_minute(tmp_path, make_record, capsys):
    for n in range(3):
        make_record(n, 0.1 * n).save(tmp_path)
    shown = Display(tmp_path, ("ig",), 8, 2, console=Console(file=io.StringIO()))
    with shown:
        shown.update()
        assert capsys.readouterr().out == ""
        shown.last_line -= 61
        shown.update()
        shown.update()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("3/8 trials; ")
    assert "best ig 0.2000 with kl=1.8,cc=0.6,nss=0.6" in line


def test_time_left_counts_what_runs_and_what_is_to_come(make_record):
    done = [make_record(n, 0.1, seconds=60.0) for n in range(4)]
    running = make_record(5, 0.1, state="running", seconds=30.0)
    # Six more after the four, one of them half done, two at a time.
    assert seconds_left([*done, running], 10, 2) == pytest.approx((6 * 60 - 30) / 2)
    assert seconds_left([running], 10, 2) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(8, "8 s"), (600, "10 min"), (12_000, "3 h 20 min")]
)
def test_durations_are_told_in_words(seconds, words):
    assert duration(seconds) == words
