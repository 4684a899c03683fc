"""Run folders: found again, never somebody else's."""

from pathlib import Path

import pytest

from pipelines.runs import StageResult, find_result, open_folder, save_result, write_json


def test_the_same_run_finds_its_folder(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "run", {"command": "full", "config": "a"})
    assert open_folder(folder, {"command": "full", "config": "a"}) == folder


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    open_folder(tmp_path / "run", {"command": "full", "config": "a"})
    with pytest.raises(ValueError, match="config differ"):
        open_folder(tmp_path / "run", {"command": "full", "config": "b"})


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="no run"):
        open_folder(tmp_path, {"command": "full"})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_stage_is_done_only_with_its_model(tmp_path: Path) -> None:
    package = tmp_path / "package"
    result = StageResult(name="decoder", run_id="r", package=package, epoch=2, scores={"kl": 0.5})
    save_result(tmp_path, result)
    assert find_result(tmp_path) is None
    package.mkdir()
    write_json(package / "model.json", {})
    assert find_result(tmp_path) == result
