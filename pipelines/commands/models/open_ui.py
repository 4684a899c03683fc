"""`python -m pipelines ui`: MLflow's pages over a store."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field

from tyro.conf import OmitArgPrefixes

from emlnet.public_url import public_url
from emlnet.registry.mlflow_registry import connect
from pipelines.config.options import StoreOptions

# Without this query MLflow opens its pages for agents and prompts.
PAGE = "#/experiments?workflowType=machine_learning"


@dataclass(frozen=True, kw_only=True)
class UiCommand:
    """Open MLflow's pages over a store: runs, curves, pictures, the registry."""

    host: str = "127.0.0.1"
    """Address to listen on; the default can be reached only from this machine."""
    port: int = 5000
    """Port to listen on."""
    tracking: OmitArgPrefixes[StoreOptions] = field(default_factory=StoreOptions)


def run(command: UiCommand) -> None:
    """Print the pages' address and replace this process by MLflow's server.

    If the store is itself a server, only print its address.
    """
    uri = command.tracking.uri
    connect(uri)
    if uri.startswith(("http://", "https://")):
        print(f"an MLflow server is there already: {public_url(uri).rstrip('/')}/{PAGE}")
        return
    print(f"MLflow of {public_url(uri)}: http://{command.host}:{command.port}/{PAGE}", flush=True)
    words = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    words += ["--host", command.host, "--port", str(command.port)]
    environment = {
        # Without MLflow's job workers it starts twice as fast, in a quarter of the memory.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",  # MLflow warns about its own code.
        **os.environ,
        # Not an argument: every user of the machine can read a process's arguments.
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    os.execve(words[0], words, environment)
