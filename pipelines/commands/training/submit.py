"""`python -m pipelines submit COMMAND ...`: send a command to a Ray cluster as a job."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from emlnet.public_url import public_url
from emlnet.registry.mlflow_registry import find_tracking_uri
from pipelines.command_table import PIPELINES, PROGRAMS
from pipelines.tracking.provenance import COMMIT, git_commit

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CHECKOUT = Path(__file__).parents[3]
PACKAGES = ("emlnet", "shards", "pipelines", "tune")
CODE = (".py", ".html")
WITHOUT_SERVER = ("shards", "build", "backbones")
"""Commands that write no runs and look up no model."""
PATH_FLAGS = ("--data", "--out", "--json", "--readouts", "--storage")
SECONDS_TO_ANSWER = 10
JOB_ENV = {
    "PYTHONUNBUFFERED": "1",
    # Time for a stopped job to save a checkpoint; Ray's default is 3 s.
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
    # After each run MLflow would print an address that only the job's machine can reach.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True, kw_only=True)
class SubmitCommand:
    """Send a command to a Ray cluster as a job, with the code of this checkout.

    Return when the job is accepted, and print how to follow and stop it.
    """

    command: Positional[str]
    """The command with its flags, e.g. `full --data /mnt/salicon --out /mnt/runs/a`; also `tune
    ...` and `shards ...`.  Paths are the cluster's."""
    address: str | None = None
    """The job server, http://HOST:8265; default: RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else this
    machine's.  RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) sign the requests.
    """


def run(command: SubmitCommand) -> None:
    """Check and send a command; print the job's id and the commands to follow and stop it.

    Raises ValueError for a command that cannot work on a cluster, RuntimeError if the job server
    refuses it.
    """
    words = shlex.split(command.command)
    if words[:1] == ["pipelines"]:
        del words[0]
    if not words:
        raise ValueError("name a command to send, e.g. `submit full --data /mnt/salicon`")
    if words[0] not in PROGRAMS:
        PIPELINES.parse(words)
    server, commit = check(words), git_commit()
    variables = {**JOB_ENV, "MLFLOW_TRACKING_URI": server, COMMIT: commit}
    known = (os.environ.get(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"))
    address = command.address or next(filter(None, known), "http://127.0.0.1:8265")
    client, public_address = connect(address), public_url(address)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pack(Path(scratch))
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        code = f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"
        print(f"sending code only: {', '.join(PACKAGES)} ({code})", flush=True)
        job = client.submit_job(
            entrypoint=entrypoint(words),
            runtime_env={
                "working_dir": str(folder),
                "env_vars": {name: value for name, value in variables.items() if value},
            },
            metadata={"command": shlex.join(words)},
        )
    print(f"job {job}: {shlex.join(words)}")
    print(f"follow it:     ray job logs --follow --address {public_address} {job}")
    print(f"stop it:       ray job stop --address {public_address} {job}")
    print(f"list all jobs: ray job list --address {public_address}", flush=True)


def check(words: Sequence[str]) -> str:
    """Return the job's MLflow server; empty for a command that needs none.

    words: the command, without `pipelines`.  Raises ValueError for options that cannot work on a
    cluster, and for secrets, which Ray's dashboard would show.
    """
    values, needs_server = flag_values(words), words[0] not in WITHOUT_SERVER
    given = values.get("--tracking-uri") or [os.environ.get("MLFLOW_TRACKING_URI") or ""]
    uri = given[-1] if needs_server else ""
    for word in (*words, uri):
        if public_url(word) != word:
            raise ValueError(
                f"{public_url(word)} contains a user, password or query that Ray's dashboard would "
                "show; give credentials to the cluster's nodes instead, for MLflow as "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
    for flag in PATH_FLAGS:
        for value in values.get(flag, []):
            if "://" not in value and not value.startswith("/"):
                raise ValueError(
                    f"{flag} {value} is relative to this folder, which the cluster does not have; "
                    "give the path that its nodes see, or a URL"
                )
    if words[0] in ("full", "encoder", "decoder") and "--out" not in values:
        raise ValueError(
            "a job needs --out, a folder that all nodes see: the job's working folder is deleted "
            "at its end"
        )
    if needs_server and not uri.startswith(("http://", "https://", "databricks")):
        raise ValueError(
            f"a job needs an MLflow server that its nodes reach, not {uri or 'the default file'}; "
            "name it with MLFLOW_TRACKING_URI or --tracking-uri"
        )
    return uri and find_tracking_uri(uri)


def flag_values(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each flag, `--flag VALUE ...` or `--flag=VALUE`."""
    found: dict[str, list[str]] = {}
    flag = ""
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            flag = flag.replace("_", "-")
            found.setdefault(flag, []).extend([value] if equals else [])
        else:
            found.setdefault(flag, []).append(word)
    return found


def pack(into: Path) -> Path:
    """Copy the checkout's code, without data, weights or environments, into a folder; return it."""

    def leave(folder: str, names: list[str]) -> list[str]:
        paths = {name: Path(folder, name) for name in names}
        return [
            name
            for name, path in paths.items()
            if path.suffix not in CODE and not (path / "__init__.py").is_file()
        ]

    for name in PACKAGES:
        shutil.copytree(CHECKOUT / name, into / name, ignore=leave)
    shutil.copy2(CHECKOUT / "pyproject.toml", into)
    return into


def entrypoint(words: Sequence[str]) -> str:
    """Return the shell command of the job."""
    program, rest = (words[0], words[1:]) if words[0] in PROGRAMS else ("pipelines", words)
    return f"exec {shlex.join(['python', '-m', program, *rest])}"


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the job server at an address.

    Raises ValueError if none answers within seconds, or if it refuses the token.
    """
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # This variable has precedence over the argument and RAY_ADDRESS.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    for name in ("dashboard.modules.job.sdk", "dashboard.modules.dashboard_sdk"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    try:
        if address.startswith("http"):  # Ray itself would wait for minutes.
            requests.get(f"{address.rstrip('/')}/api/version", timeout=SECONDS_TO_ANSWER)
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        what = "wants a token" if "Missing" in str(error) else "refuses this token"
        raise ValueError(
            f"{public_url(address)} {what}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or "
            "RAY_AUTH_TOKEN_PATH, to the cluster's"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = public_url(str(error).strip().split("\n")[0])[:200]
        raise ValueError(
            f"no job server answers at {public_url(address)} ({reason}); name it with --address "
            "http://HOST:8265, the port that the head node's dashboard listens on"
        ) from None
