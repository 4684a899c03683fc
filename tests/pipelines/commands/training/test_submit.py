"""Sending a command: what is packed, what is refused before it is sent, what is printed."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.__main__ import main, parse
from pipelines.commands.training import submit
from pipelines.commands.training.submit import SubmitCommand

FULL = ["full", "--data", "/mnt/salicon", "--out", "/mnt/run"]


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    # What is set stays with the test.
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")


@pytest.mark.parametrize("separator", [[], ["--"]])
def test_a_command_after_submit_keeps_its_flags_and_submit_its_own(separator: list[str]) -> None:
    words = ["submit", "--address", "http://head:8265", *separator, *FULL, "--epochs", "2"]
    command = parse(words)
    assert isinstance(command, SubmitCommand)
    assert command.address == "http://head:8265"
    assert command.command == f"{' '.join(FULL)} --epochs 2"


@pytest.mark.parametrize("words", [["tune", "full", "--data", "x"], ["shards", "verify", "x"]])
def test_other_programs_commands_can_be_sent(words: list[str]) -> None:
    assert parse(["submit", *words]).command == " ".join(words)
    assert submit.entrypoint(words) == f"exec python -m {' '.join(words)}"


@pytest.mark.parametrize("words", [[*FULL, "--epoks", "2"], ["evaluate"]])
def test_a_wrong_flag_is_refused_here(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["submit", *words])


def test_a_job_is_sent_and_the_lines_that_follow_and_stop_it_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    sent: dict[str, Any] = {}

    class Client:
        def submit_job(self, **job: Any) -> str:
            sent.update(
                job, files=[p.name for p in Path(job["runtime_env"]["working_dir"]).iterdir()]
            )
            return "raysubmit_1"

    monkeypatch.setattr(submit, "connect", lambda address: Client())
    assert main(["submit", "--address", "http://me:secret@head:8265", "pipelines", *FULL]) == 0
    told = capsys.readouterr().out
    assert "sending code only: emlnet, shards, pipelines, tune (" in told
    assert "ray job logs --follow --address http://head:8265 raysubmit_1\n" in told
    assert "ray job stop --address http://head:8265 raysubmit_1\n" in told
    assert "secret" not in told
    assert sent["entrypoint"] == f"exec python -m pipelines {' '.join(FULL)}"
    assert sent["runtime_env"]["env_vars"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert sorted(sent["files"]) == ["emlnet", "pipelines", "pyproject.toml", "shards", "tune"]


def test_only_code_is_sent_whatever_lies_in_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, sent = tmp_path / "checkout", tmp_path / "sent"
    sent.mkdir()
    code = {"pyproject.toml"}
    for name in submit.PACKAGES:
        code |= {f"{name}/__init__.py", f"{name}/inner/__init__.py", f"{name}/inner/new.py"}
    code.add("pipelines/inner/page.html")
    data = {
        "shards/mine/train-000000.tar", "emlnet/weights.safetensors", "tune/inner/run/result.json",
        "pipelines/venv/lib/python3.11/site-packages/numpy/__init__.py", "shards/mine/notes.py",
        "emlnet/inner/__pycache__/new.pyc", "emlnet/inner/photo.jpg", ".venv/a.py", "data/b.py",
    }  # fmt: skip
    for name in code | data:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    monkeypatch.setattr(submit, "CHECKOUT", checkout)
    folder = submit.pack(sent)
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == code


def test_this_checkout_is_small(tmp_path: Path) -> None:
    sizes = [path.stat().st_size for path in submit.pack(tmp_path).rglob("*.*")]
    assert 100_000 < sum(sizes) < 2_000_000


@pytest.mark.parametrize(
    ("words", "uri", "message"),
    [
        ([*FULL[:2], "packed", *FULL[3:]], "http://m", "--data packed is relative"),
        ([*FULL[:3], "more", *FULL[3:]], "http://m", "--data more is relative"),
        ([*FULL[:3], "--out=runs/a"], "http://m", "--out runs/a is relative"),
        (FULL[:3], "http://m", "a job needs --out"),
        (FULL, "", "a job needs an MLflow server .* the default file"),
        (FULL, "sqlite:////mnt/mlflow.db", "a job needs an MLflow server"),
        (FULL, "http://me:secret@host", "^http://host contains"),
        ([*FULL, "--tracking-uri", "http://me:secret@host"], "", "^http://host contains"),
        ([*FULL, "--storage=s3://key:secret@bucket/a"], "", "^--storage=s3://bucket/a contains"),
        (["full", "--data", "https://host/a?token=secret"], "", "^https://host/a contains"),
        (["tune", "full", "--data", "s3://me:secret@host/a"], "", "^s3://host/a contains"),
    ],
)
def test_what_a_cluster_could_not_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, words: list[str], uri: str, message: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ValueError, match=message) as caught:
        submit.check(words)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("program", ["full", "tune"])
def test_the_server_that_a_command_names_wins(program: str) -> None:
    words = [program, *FULL[1:], "--tracking-uri", "http://mine:5000"]
    assert submit.check(words) == "http://mine:5000"
    assert submit.check(["shards", "verify", "/mnt/shards"]) == ""  # It writes no runs.


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://me:secret@127.0.0.1:9"])
def test_an_address_where_nothing_listens_is_one_sentence(address: str, capsys: Any) -> None:
    assert main(["submit", "--address", address, *FULL]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no job server answers at http://127.0.0.1:9")
    assert "secret" not in line
