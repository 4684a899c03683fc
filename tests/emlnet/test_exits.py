from __future__ import annotations

import os
import subprocess
import sys

import pytest

from emlnet.exits import INTERRUPTED, UNREAD, exit_code

SAYS = """
import sys
from emlnet.exits import exit_code

def command():
    sys.stdin.read()
    {}

sys.exit(exit_code(command))
"""


@pytest.mark.parametrize(
    ("unbuffered", "command", "code", "said"),
    [
        ("1", "print('x')", UNREAD, b""),
        ("", "print('x')", UNREAD, b""),
        ("", "print('x' * 1_000_000)", UNREAD, b""),
        ("", "print('x'); sys.exit(0)", 0, b""),
        ("", "print('x'); raise ValueError('shard 3')", 1, b"error: shard 3\n"),
        ("", "print('x'); raise KeyboardInterrupt", INTERRUPTED, b"interrupted\n"),
    ],
)
def test_output_that_nobody_reads_is_no_error(unbuffered, command, code, said):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        [sys.executable, "-c", SAYS.format(command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == said
    assert process.returncode == code


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


def test_an_error_tells_no_secret_of_an_address(capsys):
    def command():
        raise ValueError("s3://key:secret@bucket/a is missing")

    assert exit_code(command) == 1
    assert capsys.readouterr().err == "error: s3://bucket/a is missing\n"
