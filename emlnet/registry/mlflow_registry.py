"""The MLflow registry: find versions of models and pull them.

Only this file of `emlnet` imports `mlflow`, at first use; a model in a folder needs no MLflow.
"""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from emlnet.extras import require_extra
from emlnet.inference.package import check_target
from emlnet.public_url import public_url
from emlnet.registry.download import assemble

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "emlnet"
CHAMPION = "champion"
PACKAGE = "package"
"""Artifact folder of a run's packaged model."""
DIGEST_TAG = "model_json_sha256"
"""Tag of a registered version with the SHA-256 of its model.json."""
HTTP = ("http://", "https://")

PROBLEMS = {
    200: "answers, but not as MLflow does",
    401: "requires a login (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)",
    403: "refuses access (HTTP 403: a permission, or the server's --allowed-hosts)",
}
MODEL_URI = re.compile(
    rf"models:/{NAME}(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))|runs:/(?P<run>[0-9a-f]{{32}})/?"
)
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
"""MLflow's error codes for a missing model, version or alias."""


def has_store(given: str | None = None) -> bool:
    """Whether a store is given or named by MLFLOW_TRACKING_URI, or lies in this folder."""
    return bool(given or os.environ.get("MLFLOW_TRACKING_URI")) or Path("mlflow.db").is_file()


def find_tracking_uri(given: str | None = None) -> str:
    """Return the store to use: `given`, else MLFLOW_TRACKING_URI, else SQLite in this folder.

    The path of a SQLite file is made absolute, for processes with other working folders.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri


def connect(tracking_uri: str) -> MlflowClient:
    """Return a client of a tracking store.

    Raises ValueError for a server that does not answer within seconds, refuses access, or is not
    MLflow, and for a SQLite file that is missing, locked, or not MLflow's.
    """
    require_extra("registry", "mlflow", "sqlalchemy", "alembic")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if tracking_uri.startswith(HTTP):
        _check_server(tracking_uri)
    elif tracking_uri.startswith("sqlite:///"):
        _check_sqlite(Path(tracking_uri.removeprefix("sqlite:///")))
    elif "://" not in tracking_uri:
        path = Path(tracking_uri).absolute()
        path = path / "mlflow.db" if path.is_dir() else path
        raise ValueError(
            f"{tracking_uri} is not the address of an MLflow store, which is http(s)://HOST or "
            f"sqlite:///PATH; did you mean sqlite:///{path}?"
        )
    from mlflow import MlflowClient

    with store_errors(tracking_uri):
        return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


@contextmanager
def store_errors(tracking_uri: str) -> Iterator[None]:
    """Turn errors of MLflow and its libraries into a ValueError of one line."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        raise ValueError(f"{public_url(tracking_uri)}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _request(tracking_uri: str, path: str, params: dict[str, Any], **options: Any) -> Any:
    """Send a GET request with the login of MLflow's own client; return the answer."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    login = get_default_host_creds(tracking_uri.rstrip("/"))
    return http_request(login, path, "GET", params=params, raise_on_status=False, **options)


def _check_server(tracking_uri: str) -> None:
    """Raise ValueError unless an MLflow server answers and accepts this user."""
    from mlflow.exceptions import MlflowException

    shown = public_url(tracking_uri)
    path = "/api/2.0/mlflow/experiments/search"
    try:
        answer = _request(tracking_uri, path, {"max_results": 1}, max_retries=0, timeout=10)
    except MlflowException as error:
        raise ValueError(
            f"no MLflow server answers at {shown} ({first_line(error)}); start one with "
            "`mlflow server`, or name another with --tracking-uri"
        ) from None
    status = answer.status_code
    if status != 200 or not answer.text.startswith("{"):
        problem = PROBLEMS.get(status, f"answers with HTTP {status}")
        raise ValueError(f"{shown} {problem}; expected an MLflow server that accepts this user")


def _check_sqlite(path: Path) -> None:
    """Raise ValueError for a file that is missing, locked, or not an MLflow database."""
    if not path.is_file():
        raise ValueError(
            f"no MLflow store at {path}; train a model first, or name a store with "
            "--tracking-uri or MLFLOW_TRACKING_URI"
        )
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        raise ValueError(f"the MLflow store {path} cannot be read: {error}") from error
    if tables and "experiments" not in tables:
        raise ValueError(f"{path} is a SQLite database, but not MLflow's: it has no experiments")


def find_aliases(client: MlflowClient) -> dict[str, str]:
    """Return the registered model's versions by alias; ValueError if no model is registered."""
    found = client.search_registered_models(f"name = '{NAME}'")
    if not found:
        raise ValueError(
            f"no model is registered as {NAME!r}; `python -m pipelines full` registers one"
        )
    return dict(found[0].aliases)


def find_version(
    client: MlflowClient, alias: str | None = None, version: str | int | None = None
) -> Any:
    """Return the version with that number or alias (default: champion); ValueError if missing."""
    aliases = find_aliases(client)
    number = aliases.get(alias or CHAMPION, 0) if version is None else version
    found = client.search_model_versions(f"name = '{NAME}' and version_number = {number}")
    if found:
        return found[0]
    wanted = f"version {version}" if version is not None else f"alias {alias or CHAMPION!r}"
    known = ", ".join(f"{a} (version {v})" for a, v in sorted(aliases.items())) or "none"
    raise ValueError(f"{NAME} has no {wanted}; its aliases are: {known}")


def find_run(uri: str, tracking_uri: str) -> str:
    """Return the run of `models:/emlnet@alias`, `models:/emlnet/version` or `runs:/run_id`.

    Raises ValueError for another form, or if the version does not exist.
    """
    found = MODEL_URI.fullmatch(uri)
    if found is None:
        raise ValueError(
            f"{uri!r} is neither models:/{NAME}@ALIAS, models:/{NAME}/VERSION nor runs:/RUN_ID"
        )
    if found["run"]:
        return found["run"]
    return str(find_version(connect(tracking_uri), found["alias"], found["version"]).run_id)


def pull(
    folder: Path,
    tracking_uri: str,
    alias: str | None = None,
    version: str | int | None = None,
    run: str | None = None,
    sha256: str | None = None,
) -> Path:
    """Pull the packaged model of a registered version or of a run; return the folder.

    folder: new, empty, or an earlier pull; an error leaves it unchanged.
    sha256: expected digest of model.json; default: the registered one.
    Raises ValueError if the store, model, alias or run is missing, or a file has another digest.
    """
    check_target(folder)
    client = connect(tracking_uri)
    with store_errors(tracking_uri):
        if run is None:
            found = find_version(client, alias, version)
            run, sha256 = str(found.run_id), sha256 or found.tags.get(DIGEST_TAG)
        open_file = partial(_open_artifact, client, run)
        return assemble(folder, open_file, f"runs:/{run}/{PACKAGE}", sha256)


def _open_artifact(client: MlflowClient, run: str, name: str) -> IO[bytes]:
    """Open a file of a run's packaged model.

    A tracking server sends the file itself: often only the server can read the artifact store.
    """
    from mlflow.exceptions import MlflowException

    path, uri = f"{PACKAGE}/{name}", client.tracking_uri
    if uri.startswith(HTTP):
        answer = _request(uri, "/get-artifact", {"run_id": run, "path": path}, stream=True)
        if answer.status_code == 200:
            stream: IO[bytes] = answer.raw
            answer.raw.decode_content = True  # Undo a proxy's compression.
            return stream
        reason = f"HTTP {answer.status_code}"
    else:
        try:
            # The file stays readable while it is open, even if its folder is deleted.
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
                return Path(client.download_artifacts(run, path, scratch)).open("rb")
        except (MlflowException, OSError) as error:
            reason = first_line(error)
    raise ValueError(f"runs:/{run}/{path} cannot be fetched from {public_url(uri)}: {reason}")
