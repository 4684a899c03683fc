"""Commands and servers as processes of their own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

ROOT = Path(__file__).parents[3]


@contextmanager
def started(words: list[str], log: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, which is gone afterwards."""
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with log.open("w") as out:
        process = subprocess.Popen(
            words, stdout=out, stderr=out, env=environment, start_new_session=True, text=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "pipelines", *map(str, words)]


def wait_for(text: str, log: Path, process: subprocess.Popen[str], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """A tracking server over a SQLite file, artifacts through it."""
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    words += ["--artifacts-destination", str(folder / "artifacts")]
    with started(words, folder / "server.log") as process:
        wait_for_answer(f"http://127.0.0.1:{port}/health", folder / "server.log", process)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def ray_head(log: Path, port: int = 0, **variables: str) -> Iterator[str]:
    """The job server's address of a cluster of two CPUs that `ray start` made.

    port: of its dashboard, which is the job server; 0: a free one.
    """
    port, folder = port or free_port(), Path(sys.executable).parent
    # Sockets lie in it, whose paths must be short.
    shared = os.environ.get("RAY_TMPDIR")
    sessions = f"{shared}/ray" if shared else tempfile.mkdtemp(prefix="ray-")
    words = [str(folder / "ray"), "start", "--head", "--block", "--num-cpus", "2"]
    words += ["--port", str(free_port()), "--dashboard-port", str(port)]
    words += ["--ray-client-server-port", str(free_port()), "--temp-dir", sessions]
    words += ["--min-worker-port", "0", "--max-worker-port", "0", "--node-ip-address", "127.0.0.1"]
    # Jobs run the `python` of the environment in which Ray was started.
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    with started(words, log, PATH=path, **variables) as process:
        wait_for("Ray runtime started", log, process)
        wait_for_answer(f"http://127.0.0.1:{port}/api/version", log, process)
        yield f"http://127.0.0.1:{port}"
    if not shared:
        shutil.rmtree(sessions, ignore_errors=True)


def wait_for_answer(url: str, log: Path, process: subprocess.Popen[str]) -> None:
    """Until a server answers, whatever it says."""
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            requests.get(url, timeout=5)
        except requests.RequestException:
            time.sleep(0.3)
        else:
            return
