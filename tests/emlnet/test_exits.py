from __future__ import annotations

import subprocess
import sys

import pytest

from emlnet.exits import INTERRUPTED, UNREAD, exit_code

TALKS = """
import sys
from emlnet.exits import exit_code
sys.exit(exit_code(lambda: [print("x" * 1000) for _ in range(1000)]))
"""


def test_output_that_nobody_reads_to_its_end_is_no_error():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", TALKS], **pipes) as process:
        assert process.stdout.readline().startswith(b"xxx")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == UNREAD


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("shard 3"), 1, "error: shard 3\n"),
        (BrokenPipeError("a server left"), 1, "error: a server left\n"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted\n"),
    ],
)
def test_an_end_that_is_no_success_is_one_line(error, code, line, capsys):
    def command():
        raise error

    assert exit_code(command) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(("answer", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_commands_own_number_is_its_exit_code(answer, code):
    assert exit_code(lambda: answer) == code
