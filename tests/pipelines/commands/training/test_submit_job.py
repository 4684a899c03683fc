"""Sending a command: what is packed, what is refused before it is sent, whose exit code counts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.__main__ import main, parse
from pipelines.commands.training import jobs, submit_job

FULL = ["full", "--data", "/mnt/salicon", "--out", "/mnt/run"]


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    # What is set stays with the test.
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")


class Client:
    """A job server that answers from a list."""

    def __init__(self, log: list[str], status: str, code: int | None) -> None:
        self.log, self.details = (
            log,
            SimpleNamespace(status=status, driver_exit_code=code, message="it ended"),
        )
        self.stopped: list[str] = []

    async def tail_job_logs(self, job: str) -> Any:
        for text in self.log:
            if text == "interrupt":
                raise KeyboardInterrupt
            if text == "break":
                self.log.remove("break")
                raise RuntimeError("connection closed")
            yield text

    def get_job_info(self, job: str) -> Any:
        return self.details

    def stop_job(self, job: str) -> bool:
        self.stopped.append(job)
        return True


def test_a_command_after_submit_keeps_its_flags_and_submit_its_own() -> None:
    command = parse(["submit", "--address", "http://head:8265", "--detach", *FULL, "--epochs", "2"])
    assert isinstance(command, submit_job.SubmitCommand)
    assert (command.address, command.detach) == ("http://head:8265", True)
    assert command.command == (*FULL, "--epochs", "2")


def test_other_rooms_commands_can_be_sent() -> None:
    words = ("tune", "loss-weights", "--data", "/mnt/shards")
    assert submit_job.entrypoint(words).endswith(
        "exec python -m tune loss-weights --data /mnt/shards"
    )
    assert "python -m pipelines full" in submit_job.entrypoint(FULL)


def test_a_misspelt_flag_is_refused_here() -> None:
    with pytest.raises(SystemExit):
        parse(["submit", *FULL, "--epoks", "2"])


def test_code_alone_is_packed(tmp_path: Path) -> None:
    folder = submit_job.pack(tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert names == {"emlnet", "shards", "pipelines", "tune", "pyproject.toml"}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".py", ".toml", ".html"}  # Templates of reports.
    assert sum(path.stat().st_size for path in files) < 2_000_000


@pytest.mark.parametrize(
    ("words", "uri", "message"),
    [
        ([*FULL[:2], "packed", *FULL[3:]], "http://m", "--data packed is relative"),
        ([*FULL[:3], "more", *FULL[3:]], "http://m", "--data more is relative"),
        ([*FULL[:3], "--out=runs/a"], "http://m", "--out runs/a is relative"),
        (FULL[:3], "http://m", "a job needs --out"),
        (FULL, "", "a job needs an MLflow server .* the default file"),
        (FULL, "sqlite:////mnt/mlflow.db", "a job needs an MLflow server"),
        (FULL, "http://me:secret@host", "the address of host holds a password"),
    ],
)
def test_what_a_cluster_could_not_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, words: list[str], uri: str, message: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ValueError, match=message) as caught:
        submit_job.check(words)
    assert "secret" not in str(caught.value)


def test_a_command_that_writes_no_runs_needs_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert submit_job.check(["shards", "verify", "/mnt/shards"]) == ""


def test_a_command_with_its_room_is_checked_as_without() -> None:
    command = parse(["submit", "pipelines", *FULL])
    assert isinstance(command, submit_job.SubmitCommand)
    assert command.command == tuple(FULL)


@pytest.mark.parametrize("room", ["full", "tune"])
def test_the_server_that_a_command_names_wins(monkeypatch: pytest.MonkeyPatch, room: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    words = [room, *FULL[1:], "--tracking-uri", "http://mlflow:5000"]
    assert submit_job.check(words) == "http://mlflow:5000"


def test_an_address_where_nothing_listens_is_one_sentence(capsys: Any) -> None:
    assert main(["submit", "--address", "http://127.0.0.1:9", *FULL]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no job server answers at http://127.0.0.1:9")


def test_the_jobs_exit_code_is_the_commands(capsys: Any) -> None:
    assert jobs.follow(Client(["a\n", "b\n"], "FAILED", 3), "job", None) == 3  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert out == "a\nb\n"
    assert err == "job: failed: it ended\n"
    assert jobs.follow(Client([], "FAILED", None), "job", None) == 1  # type: ignore[arg-type]
    assert jobs.follow(Client([], "SUCCEEDED", 0), "job", None) == 0  # type: ignore[arg-type]


def test_a_log_whose_connection_breaks_goes_on_without_repeating(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    client = Client(["one ", "two ", "break", "three"], "RUNNING", 0)

    def ends(seconds: float) -> None:
        client.details.status = "SUCCEEDED"

    monkeypatch.setattr(jobs.time, "sleep", ends)
    assert jobs.follow(client, "job") == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out.startswith("one two three")


@pytest.mark.parametrize("answer", [True, False])
def test_ctrl_c_asks_whether_to_stop_the_job_too(answer: bool, capsys: Any) -> None:
    client = Client(["one\n", "interrupt"], "RUNNING", None)
    assert jobs.follow(client, "job", ask=lambda: answer) == 130  # type: ignore[arg-type]
    assert client.stopped == (["job"] if answer else [])
    assert ("goes on" in capsys.readouterr().out) is not answer


def test_a_log_that_nobody_reads_any_more_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unread(*_: Any, **__: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(jobs, "print", unread, raising=False)
    with pytest.raises(BrokenPipeError):
        jobs.follow(Client(["a\n"], "RUNNING", None), "job")  # type: ignore[arg-type]


def test_the_line_that_says_how_to_follow_a_job_names_its_address():
    assert jobs.how_to_follow("job", None).endswith("jobs logs job")
    assert jobs.how_to_follow("job", "http://head:8265").endswith(
        "jobs logs job --address http://head:8265"
    )
