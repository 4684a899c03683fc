"""Off a terminal, progress is whole lines, few of them."""

import pytest

from shards.files.progress import progress_bar


def test_a_log_file_gets_whole_lines_and_few_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(500, "build", "image") as bar:
        for _ in range(500):
            bar.update()
    told = capsys.readouterr().err
    assert "\r" not in told
    assert told.splitlines()[-1].startswith("build: 500/500 images")
    assert len(told.splitlines()) <= 3
