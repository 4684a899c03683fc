"""A job sent over HTTP to a cluster that wants a token, followed to a model that can be pulled."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from emlnet.__main__ import main as emlnet_main
from tests.pipelines.cluster.commands import (
    command,
    free_port,
    mlflow_server,
    started,
    wait_for_answer,
)

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The job server of a cluster that `ray start` made."""
    log, port = tmp_path_factory.mktemp("ray") / "log", free_port()
    # Sockets lie in it, whose paths must be short.
    sessions = tempfile.mkdtemp(prefix="ray-")
    folder = Path(sys.executable).parent
    words = [str(folder / "ray"), "start", "--head", "--block"]
    words += ["--port", str(free_port()), "--dashboard-port", str(port), "--num-cpus", "2"]
    words += ["--node-ip-address", "127.0.0.1", "--temp-dir", sessions]
    words += ["--min-worker-port", "0", "--max-worker-port", "0", "--ray-client-server-port"]
    words += [str(free_port())]
    # Jobs run the `python` of the environment in which Ray was started.
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    with started(words, log, **TOKEN, PATH=path) as process:
        wait_for_answer(f"http://127.0.0.1:{port}/api/version", log, process)
        yield f"http://127.0.0.1:{port}"
    shutil.rmtree(sessions, ignore_errors=True)


def run(words: list[str], log: Path, **variables: str) -> tuple[int, str]:
    with started(words, log, **variables) as process:
        code = process.wait(timeout=450)
    return code, log.read_text()


def test_a_job_is_followed_to_a_model_that_is_pulled(
    address: str, raw: Path, tmp_path: Path
) -> None:
    full = ["full", "--preset", "smoke", "--backbones", "tiny", "--data", str(raw)]
    full += ["--out", str(tmp_path / "run")]
    submit = ["submit", "--address", address, *full]
    with mlflow_server(tmp_path, free_port()) as uri:
        code, told = run(command(*submit), tmp_path / "job.log", MLFLOW_TRACKING_URI=uri, **TOKEN)
        assert code == 0, told
        assert "succeeded" in told
        assert emlnet_main(["pull", str(tmp_path / "model"), "--tracking-uri", uri]) == 0
        refused = ["submit", "--address", address, *full]
        refused[refused.index(str(raw))] = str(tmp_path / "nothing")
        code, told = run(
            command(*refused), tmp_path / "refused.log", MLFLOW_TRACKING_URI=uri, **TOKEN
        )
    assert code == 1
    assert f"error: {tmp_path / 'nothing'} is not a folder" in told
    _, listed = run(command("jobs", "list", "--address", address), tmp_path / "list.log", **TOKEN)
    assert [line.split()[1] for line in listed.splitlines()[-2:]] == ["SUCCEEDED", "FAILED"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "wants a token"),
        ({**TOKEN, "RAY_AUTH_TOKEN": "f" * 64}, "refuses this token"),
    ],
)
def test_a_token_that_is_missing_or_wrong_is_one_sentence(
    address: str, tmp_path: Path, variables: dict[str, str], words: str
) -> None:
    code, told = run(command("jobs", "list", "--address", address), tmp_path / "log", **variables)
    assert code == 1
    (line,) = [line for line in told.splitlines() if line.startswith("error:")]
    assert words in line
