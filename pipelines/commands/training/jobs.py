"""`python -m pipelines jobs list | logs | stop`: the jobs of a cluster, over HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import ClientError
from tyro.conf import Positional

from emlnet.exits import INTERRUPTED

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DASHBOARD = "http://127.0.0.1:8265"
SECONDS_TO_START_AGAIN = 2
"""Between attempts to follow a log whose connection broke."""
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True, kw_only=True)
class Server:
    """Which cluster's job server to ask."""

    address: str | None = None
    """The job server, http://HOST:8265; default: RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else this
    machine's.  RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) sign the requests.
    """


@dataclass(frozen=True, kw_only=True)
class JobsCommand(Server):
    """List a cluster's jobs, follow the log of one, or stop it."""

    action: Positional[Literal["list", "logs", "stop"]]
    """`list` all jobs, follow the `logs` of one until it ends, or `stop` one."""
    job: Positional[str | None] = None
    """The job's name, as `submit` and `list` print it."""

    def __post_init__(self) -> None:
        if (self.action == "list") != (self.job is None):
            raise ValueError("`list` takes no job, `logs` and `stop` take one: raysubmit_...")


def connect(address: str | None) -> JobSubmissionClient:
    """A client of a cluster's job server.

    Raises ValueError when none answers there, or it refuses the token.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if address:
        # Ray lets this variable win over an address that is passed, and over RAY_ADDRESS.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
    shown = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or DASHBOARD
    for name in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(shown)
    except AuthenticationError as error:
        given = "Missing" not in str(error)
        what = "refuses this token" if given else "wants a token"
        raise ValueError(
            f"{shown} {what}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, "
            "to the cluster's"
        ) from None
    except (ConnectionError, RuntimeError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"no job server answers at {shown} ({reason}); name it with --address "
            "http://HOST:8265, the port that the head node's dashboard listens on"
        ) from None


def run(command: JobsCommand) -> int:
    """Does what the command asks; returns an exit code, that of the job when its log is read."""
    client = connect(command.address)
    if command.action == "list":
        print(table(client.list_jobs()))
        return 0
    assert command.job is not None
    known = [job.submission_id for job in client.list_jobs() if job.submission_id]
    if command.job not in known:
        raise ValueError(f"no job {command.job!r} there; it has {', '.join(known) or 'none'}")
    if command.action == "logs":
        return follow(client, command.job, address=command.address)
    stop(client, command.job)
    return 0


def table(jobs: list[Any]) -> str:
    """A line for each submitted job, the newest last: name, state, start, seconds, command."""
    lines = []
    for job in sorted(jobs, key=lambda job: job.start_time or 0):
        if not job.submission_id:
            continue
        began = (job.start_time or 0) / 1000
        ended = job.end_time / 1000 if job.end_time else time.time()
        started = f"{datetime.fromtimestamp(began):%Y-%m-%d %H:%M:%S}"
        what = (job.metadata or {}).get("command", job.entrypoint)
        lines.append(
            f"{job.submission_id}  {job.status:<9}  {started}  {ended - began:>6.0f} s  {what}"
        )
    return "\n".join(lines) or "no jobs"


def stop(client: JobSubmissionClient, job: str) -> None:
    """Asks a job to end and says so."""
    stopped = client.stop_job(job)
    print(f"{job}: asked to stop" if stopped else f"{job}: had ended before", flush=True)


def how_to_follow(job: str, address: str | None) -> str:
    """The line that says how a job is followed later, at the address that was named."""
    there = f" --address {address}" if address else ""
    return f"follow it with: python -m pipelines jobs logs {job}{there}"


def follow(
    client: JobSubmissionClient,
    job: str,
    ask: Callable[[], bool] | None = None,
    address: str | None = None,
) -> int:
    """Prints a job's log until the job ends; returns its own exit code.

    ask: called on Ctrl-C, whether to stop the job too; default: a question on the terminal.
    address: that the user named, for the line that says how to go on.
    A connection that breaks is made again, and the log goes on where it was.
    """
    printed = 0
    try:
        while True:
            printed = asyncio.run(_tail(client, job, printed))
            details = client.get_job_info(job)
            if details.status in FINAL:
                break
            time.sleep(SECONDS_TO_START_AGAIN)
    except KeyboardInterrupt:
        if (ask or _ask)():
            stop(client, job)
        else:
            print(f"\n{job} goes on; {how_to_follow(job, address)}")
        return INTERRUPTED
    code = details.driver_exit_code
    if details.status == "SUCCEEDED":
        print(f"{job}: succeeded", flush=True)
        return code or 0
    reason = (details.message or "").split("\n")[0].partition(", last available logs")[0]
    print(f"{job}: {details.status.lower()}: {reason}", file=sys.stderr, flush=True)
    return code or 1


async def _tail(client: JobSubmissionClient, job: str, printed: int) -> int:
    """Prints the log from its `printed`-th character on; returns how many there are."""
    seen = 0
    texts = aiter(client.tail_job_logs(job))
    while True:
        try:
            text = await anext(texts)
        except (StopAsyncIteration, RuntimeError, OSError, ClientError):
            return printed  # Also where the connection broke: the caller looks at the job.
        seen += len(text)
        if seen > printed:
            print(text[printed - seen :], end="", flush=True)
            printed = seen


def _ask() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input("\nstop the job too? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False
