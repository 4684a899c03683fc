"""Every command that README.md and docs/ show is one that parses."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import emlnet.__main__
import pipelines.__main__
import shards.__main__
import tune.__main__
from pipelines.commands.training.submit import SubmitCommand

ROOT = Path(__file__).parents[1]
PARSE: dict[str, Callable[[list[str]], object]] = {
    "python -m shards": shards.__main__.parse,
    "python -m pipelines": pipelines.__main__.parse,
    "python -m tune": tune.__main__.parse,
    "emlnet": emlnet.__main__.parse,
}


def shown_commands() -> list[tuple[str, str]]:
    """The program and the arguments of each indented or fenced command line."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "Makefile"]:
        text = path.read_text().replace("\\\n", " ").replace("\t$(BIN)/", "    ")
        for program in PARSE:
            lines = re.findall(rf"^(?: {{4}}|\$ )?{program} ([a-z].+)$", text, re.M)
            found += [(program, line) for line in lines]
    return found


@pytest.mark.parametrize(("program", "arguments"), shown_commands())
def test_a_shown_command_parses(program: str, arguments: str) -> None:
    parsed = PARSE[program](shlex.split(arguments, comments=True))
    if isinstance(parsed, SubmitCommand):
        assert PARSE["python -m pipelines"](shlex.split(parsed.command))


def test_every_program_is_shown() -> None:
    assert {program for program, _ in shown_commands()} == set(PARSE)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_make_targets_that_are_shown_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)", page.read_text()):
            assert re.search(rf"^{target}:", makefile, re.M), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist_and_nothing_is_left_to_fill_in(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / link).is_file(), link
    assert not re.findall(r"^[A-Z]+_[A-Z_]+$", text, re.M)


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text().splitlines()) < 150
