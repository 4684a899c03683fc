"""MLflow's server as `ui` starts it."""

import signal
from pathlib import Path

import psutil
import pytest

from pipelines.__main__ import main
from pipelines.tracking.mlflow_runs import Tracker
from tests.pipelines.cluster.commands import command, free_port, started, wait_for_answer


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_all_its_workers(tmp_path: Path, number: int) -> None:
    uri, port, log = f"sqlite:///{tmp_path / 'secret.db'}", free_port(), tmp_path / "log"
    Tracker.open(uri, "osie")
    words = command("ui", "--port", port)
    with started(words, log, MLFLOW_TRACKING_URI=uri) as process:
        wait_for_answer(f"http://127.0.0.1:{port}/health", log, process)
        found = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert len(found) > 1
        assert "secret.db" not in str([one.cmdline() for one in found])
        process.send_signal(number)
        _, alive = psutil.wait_procs(found, timeout=30)
    assert alive == []
    assert f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning" in log.read_text()


def test_a_store_that_is_not_there_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ui", "--tracking-uri", f"sqlite:///{tmp_path / 'none.db'}"]) == 1
    assert "error: no MLflow store at" in capsys.readouterr().err
