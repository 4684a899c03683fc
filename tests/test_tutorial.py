"""The commands of docs/train.md's first section, run one after another as they stand."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAYS_OPEN = "# stays open"


def commands() -> list[str]:
    """The command lines of that section that end by themselves."""
    text = (ROOT / "docs" / "train.md").read_text().partition("## One encoder")[0]
    lines = re.findall(r"^ {4}((?:python -m|emlnet) .+)$", text, re.M)
    return [line for line in lines if STAYS_OPEN not in line]


def test_the_tutorial_has_its_commands() -> None:
    assert len(commands()) >= 9
    assert sum(line.startswith("emlnet") for line in commands()) >= 3


@pytest.mark.slow
@pytest.mark.ray
def test_the_tutorial_leads_from_data_to_maps_and_a_model(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI",)}
    environment["PYTHONPATH"] = str(ROOT)
    for line in commands():
        words = shlex.split(line)
        if words[0] == "emlnet":
            words = ["python", "-m", *words]
        answer = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, f"{line}\n{answer.stdout}\n{answer.stderr}"
    pictures = list((tmp_path / "own" / "images" / "val").iterdir())
    for picture in pictures:
        for ending in ("smap", "overlay", "figure"):
            assert (tmp_path / "maps" / f"{picture.stem}_{ending}.png").is_file()
        assert (tmp_path / "many" / f"{picture.stem}_smap.png").is_file()
    assert (tmp_path / "model.onnx").stat().st_size > 1000
