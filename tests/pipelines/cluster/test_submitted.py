"""A job sent over HTTP to a cluster that wants a token, followed to a model that can be pulled."""

import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emlnet.__main__ import main as emlnet_main
from tests.pipelines.cluster.commands import (
    command,
    free_port,
    mlflow_server,
    ray_head,
    started,
)

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The job server of a cluster that `ray start` made."""
    with ray_head(tmp_path_factory.mktemp("ray") / "log", **TOKEN) as found:
        yield found


def run(words: list[str], log: Path, **variables: str) -> tuple[int, str]:
    with started(words, log, **variables) as process:
        code = process.wait(timeout=450)
    return code, log.read_text()


def submit(words: list[str], folder: Path, **variables: str) -> tuple[int, str]:
    """Submits a command and follows it by the line that `submit` prints; exit code and log."""
    for _ in range(20):  # The head answers before it takes jobs.
        code, told = run(command("submit", *words), folder / "submit.log", **variables)
        if "No available agent" not in told:
            break
        time.sleep(3)
    assert code == 0, told
    (line,) = re.findall(r"^follow it: +(ray .+)$", told, re.M)
    ray, *rest = shlex.split(line)
    return run([str(Path(sys.executable).with_name(ray)), *rest], folder / "job.log", **variables)


def test_a_job_is_followed_to_a_model_that_is_pulled(
    address: str, raw: Path, tmp_path: Path
) -> None:
    full = ["full", "--preset", "smoke", "--backbones", "tiny", "--data", str(raw)]
    full = ["--address", address, *full, "--out", str(tmp_path / "run")]
    with mlflow_server(tmp_path, free_port()) as uri:
        variables = {"MLFLOW_TRACKING_URI": uri, **TOKEN}
        code, told = submit(full, tmp_path, **variables)
        assert code == 0, told
        assert "succeeded" in told
        assert emlnet_main(["pull", str(tmp_path / "model"), "--tracking-uri", uri]) == 0
    verify = ["--address", address, "shards", "verify", str(tmp_path / "nothing")]
    _, told = submit(verify, tmp_path, **TOKEN)
    assert "failed" in told  # Ray's command ends with 0 whatever the job's own code.
    assert "error: " in told


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
    sent = command("submit", "--address", address, "shards", "verify", "/data")
    code, told = run(sent, tmp_path / "log", **variables)
    assert code == 1
    (line,) = [line for line in told.splitlines() if line.startswith("error:")]
    assert words in line
