"""Run folders: found again, never somebody else's."""

import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from pipelines.tracking.run_folder import (
    StageResult,
    find_result,
    open_folder,
    read_json,
    save_result,
    write_json,
)


def test_a_run_finds_its_folder_again_and_another_run_does_not(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "run", {"command": "full", "config": "a"})
    assert open_folder(folder, {"command": "full", "config": "a"}) == folder
    with pytest.raises(ValueError, match="config differ"):
        open_folder(folder, {"command": "full", "config": "b"})


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="are not a run's"):
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


def test_an_empty_file_is_named_and_counts_as_missing_where_that_is_safe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result, identity = tmp_path / "result.json", tmp_path / "run.json"
    for path in (result, identity):
        path.touch()
    assert read_json(result) is find_result(tmp_path) is None
    assert f"{result} is empty" in caplog.text
    with pytest.raises(ValueError, match=r"run\.json is empty"):
        open_folder(tmp_path, {"command": "full"})


def test_another_process_is_kept_out_of_a_folder_until_this_one_ends(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from pipelines.tracking.run_folder import open_folder\n"
        "open_folder(Path(sys.argv[1]), {}); print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(ValueError, match=rf"/run is in use by process {other.pid} on "):
            open_folder(tmp_path / "run", {})
        other.kill()
    assert open_folder(tmp_path / "run", {}) == tmp_path / "run"
