"""Every row of the table: it parses, has help, and is not imported before it is chosen."""

import re
import subprocess
import sys
import time

import pytest

from pipelines.__main__ import main, parse
from pipelines.command_table import PIPELINES

VERBS = pytest.mark.parametrize("verb", PIPELINES.commands)


@VERBS
def test_a_command_parses_or_names_the_flags_that_it_requires(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        name = type(parse([verb])).__name__
    except SystemExit:
        assert "Required options" in capsys.readouterr().err
    else:
        assert name.endswith("Command")


@VERBS
def test_a_command_explains_all_its_flags(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help-all"])
    assert ended.value.code == 0
    for block in re.split(r"\n[^\w\n-]*(?=--[a-z][\w.-]*(?<!\.)[ ,])", capsys.readouterr().out)[1:]:
        words = re.sub(r"[│╰╯─\s|+-]+", " ", block)
        explained = re.sub(r"\(default: .*?\)|\(required\)", "", words)
        assert len(explained.split()) > 4, block


@pytest.mark.parametrize("verb", ["full", "encoder", "decoder"])
def test_help_shows_about_a_dozen_flags(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    told = capsys.readouterr().out
    shown = re.findall(r"^\W*(--[a-z][a-z.-]*)", told, re.M)
    assert 10 <= len(shown) <= 14
    assert {"--data", "--epochs", "--batch-size", "--out"} <= {*shown}
    assert "--help-all lists all" in told


def test_help_lists_the_commands_in_a_second_and_imports_none() -> None:
    script = "import sys; from pipelines.__main__ import main\n"
    script += "try: main(['--help'])\nfinally: print(*{'torch', 'ray', 'mlflow'} & {*sys.modules})"
    began = time.process_time()
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    *lines, imported = answer.stdout.splitlines()
    assert imported == ""
    listed = [line.split()[0] for line in lines if re.match(r" {4}\w", line)]
    assert listed == [*PIPELINES.commands]
    assert time.process_time() - began < 1


@pytest.mark.parametrize("words", [[], ["nothing"], ["ful"]])
def test_an_unknown_command_lists_the_known_ones(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "pipelines.commands.evaluating.list_backbones", None)
    assert main(["backbones"]) == 1
    assert "this machine lacks the package pipelines" in capsys.readouterr().err
