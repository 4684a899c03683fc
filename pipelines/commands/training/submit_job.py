"""`python -m pipelines submit COMMAND ...`: any of the commands as a job on a Ray cluster."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tyro.conf import Suppress

from emlnet.registry.mlflow_registry import find_tracking_uri
from pipelines import LINES_OF_WORKERS
from pipelines.commands.training import jobs
from pipelines.tracking.provenance import COMMIT, git_commit

ROOT = Path(__file__).parents[3]
ROOMS = ("pipelines", "tune", "shards")
"""Whose commands can be sent, as `python -m ROOM`; one without a room is of the first."""
SENT = ("emlnet", "shards", "pipelines", "tune", "pyproject.toml")
"""What a job brings: the code, so that nothing else in the checkout is ever sent."""
WITHOUT_SERVER = ("shards", "build", "backbones")
"""Commands that write no runs and look up no model."""
PATHS = ("--data", "--out", "--json", "--readouts", "--storage")
"""Flags whose values are the cluster's folders and files."""
SECONDS_TO_STOP = "60"
SERVERS = ("http", "https", "databricks")


@dataclass(frozen=True, kw_only=True)
class SubmitCommand(jobs.Server):
    """Send a command to a cluster as a Ray job, follow its log, and exit with its exit code.

    The command comes last: any of these with its flags, `tune ...` or `shards ...`; paths in it
    are the cluster's.
    """

    command: Suppress[tuple[str, ...]] = ()
    """The command to run there, e.g. `full --data /mnt/salicon`."""
    detach: bool = False
    """Return as soon as the job is there; `jobs logs` follows it later."""


def split(argv: Sequence[str], verbs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words after `submit` as submit's own flags, and the command with its flags."""
    for position, word in enumerate(argv):
        if word in (*verbs, *ROOMS):
            return list(argv[:position]), list(argv[position:])
    return list(argv), []


def check(words: Sequence[str]) -> str:
    """Raises ValueError for what could not work on a cluster; returns its MLflow server, if any.

    words: the command, without its room when it is of pipelines.
    """
    paths = _values(words, PATHS)
    for flag, value in paths:
        if "://" not in value and not value.startswith("/"):
            raise ValueError(
                f"{flag} {value} is relative to this folder, which the cluster does not have; "
                "give the path that its nodes see, or a URL"
            )
    if words[0] in ("full", "encoder", "decoder") and "--out" not in dict(paths):
        raise ValueError(
            "a job needs --out, a folder that all nodes see: its own working folder ends with it"
        )
    if words[0] in WITHOUT_SERVER:
        return ""
    given = dict(_values(words, ("--tracking-uri",))).get("--tracking-uri")
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or ""
    parts = urlsplit(uri)
    if parts.scheme not in SERVERS:
        raise ValueError(
            f"a job needs an MLflow server that its nodes reach, not {uri or 'the default file'}; "
            "name it with MLFLOW_TRACKING_URI or --tracking-uri"
        )
    if parts.password:
        raise ValueError(
            f"the address of {parts.hostname} holds a password, which the cluster's pages would "
            "show; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on its nodes instead"
        )
    return find_tracking_uri(uri)


def _values(words: Sequence[str], flags: Sequence[str]) -> list[tuple[str, str]]:
    """Each value of some flags, which may take several, with its flag."""
    found, open_flag = [], ""
    for word in words:
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if word.startswith("--"):
            open_flag = flag if flag in flags else ""
            if open_flag and equals:
                found.append((flag, value))
        elif open_flag:
            found.append((open_flag, word))
    return found


def pack(into: Path) -> Path:
    """Copies the code alone into a folder, without compiled files; returns the folder."""
    for name in SENT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, into / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, into / name)
    return into


def entrypoint(words: Sequence[str]) -> str:
    """The shell command of the job."""
    room, rest = (words[0], words[1:]) if words[0] in ROOMS else (ROOMS[0], words)
    return f"exec {shlex.join(['python', '-m', room, *rest])}"


def run(command: SubmitCommand) -> int:
    """Sends the job and follows it; returns its exit code, 0 at once with `--detach`.

    Raises ValueError for a command that could not work there, RuntimeError when it is refused.
    """
    if not command.command:
        raise ValueError("name a command to send, e.g. `submit full --data /mnt/salicon`")
    server = check(command.command)
    variables = {
        **({"MLFLOW_TRACKING_URI": server} if server else {}),
        **LINES_OF_WORKERS,
        "PYTHONUNBUFFERED": "1",
        # For the checkpoint of a job that is stopped; Ray's 3 s are too few.
        "RAY_JOB_STOP_WAIT_TIME_S": SECONDS_TO_STOP,
        # An address among the job's own, and a line for each run.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    commit = git_commit()
    if commit:
        variables[COMMIT] = commit
    client = jobs.connect(command.address)
    with tempfile.TemporaryDirectory() as scratch:
        job = client.submit_job(
            entrypoint=entrypoint(command.command),
            runtime_env={"working_dir": str(pack(Path(scratch))), "env_vars": variables},
            metadata={"command": shlex.join(command.command)},
        )
    print(f"job {job}: {shlex.join(command.command)}", flush=True)
    if command.detach:
        print(jobs.how_to_follow(job, command.address), file=sys.stderr)
        return 0
    return jobs.follow(client, job, address=command.address)
