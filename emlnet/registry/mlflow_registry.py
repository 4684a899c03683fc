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
from typing import TYPE_CHECKING, Any

from emlnet.extras import require_extra
from emlnet.inference import package
from emlnet.inference.package import MODEL, Package, check_target
from emlnet.public_url import public_url
from emlnet.registry.download import (
    BrokenDownloadError,
    Get,
    assemble,
    fetch,
    is_source,
    write_blocks,
)

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient

NAME = "emlnet"
CHAMPION = "champion"
PACKAGE = "package"
"""The folder among a run's artifacts that holds its packaged model."""
DIGEST_TAG = "model_json_sha256"
"""The tag of a registered version that holds the digest of its model.json."""
NONE_REGISTERED = f"no model is registered as {NAME!r}; `python -m pipelines full` registers one"

REFUSALS = {
    401: "wants a login (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)",
    403: "refuses access (HTTP 403: a permission, or the server's --allowed-hosts)",
}
MODEL_URI = re.compile(rf"models:/{NAME}(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))")

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
"""Error codes of MLflow's stores for a model, version or alias that is not there."""


class NotRegisteredError(ValueError):
    """The registry has no such model, version or alias."""


def find_tracking_uri(given: str | None = None) -> str:
    """Return the store to use: `given`, else MLFLOW_TRACKING_URI, else SQLite in this folder.

    The path of a SQLite file is made absolute: other processes have other working folders.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri


def connect(tracking_uri: str) -> MlflowClient:
    """Return a client of a tracking store.

    Raises ValueError when the store cannot be used: a server that does not answer within seconds,
    refuses, or is not MLflow; a SQLite file that is missing, locked, or not MLflow's.
    """
    require_extra("registry", "mlflow", "sqlalchemy", "alembic")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if tracking_uri.startswith(("http://", "https://")):
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
    """Turn what MLflow and its libraries raise into a ValueError of one line."""
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


def _check_server(tracking_uri: str) -> None:
    """Raise ValueError unless an MLflow server answers there and lets this user in."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    shown = public_url(tracking_uri)
    try:
        answer = http_request(
            get_default_host_creds(tracking_uri.rstrip("/")),
            "/api/2.0/mlflow/experiments/search",
            "GET",
            params={"max_results": 1},
            max_retries=0,
            timeout=10,
            raise_on_status=False,
        )
        problem = REFUSALS.get(answer.status_code, f"answers with HTTP {answer.status_code}")
        if answer.status_code == 200:
            if isinstance(answer.json(), dict):
                return
            problem = "answers with another page"
    except MlflowException as error:
        raise ValueError(
            f"no MLflow server answers at {shown} ({first_line(error)}); start one with "
            "`mlflow server`, or name another with --tracking-uri"
        ) from None
    except ValueError:
        problem = "answers with another page"
    raise ValueError(f"{shown} {problem}, not as an MLflow server does for this user")


def _check_sqlite(path: Path) -> None:
    """Raise ValueError for a file that is missing, locked, or not a database of MLflow's."""
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


def find_version(client: MlflowClient, alias: str | None = None, version: int | None = None) -> Any:
    """Return the registered version with that number or alias.

    Raises NotRegisteredError that lists the aliases.
    """
    from mlflow.exceptions import MlflowException

    try:
        if version is not None:
            return client.get_model_version(NAME, str(version))
        return client.get_model_version_by_alias(NAME, alias or CHAMPION)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
    try:
        known = client.get_registered_model(NAME)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        raise NotRegisteredError(NONE_REGISTERED) from None
    aliases = ", ".join(f"{a} (version {v})" for a, v in sorted(known.aliases.items())) or "none"
    wanted = f"version {version}" if version is not None else f"alias {alias or CHAMPION!r}"
    raise NotRegisteredError(f"{NAME} has no {wanted}; its aliases are: {aliases}")


def find_uri(client: MlflowClient, uri: str) -> Any:
    """Return the registered version of `models:/emlnet@alias` or `models:/emlnet/version`.

    Raises ValueError for another form, NotRegisteredError when there is no such version.
    """
    found = MODEL_URI.fullmatch(uri)
    if found is None:
        raise ValueError(f"{uri!r} is neither models:/{NAME}@ALIAS nor models:/{NAME}/VERSION")
    return find_version(
        client, alias=found["alias"], version=int(found["version"]) if found["version"] else None
    )


def load(
    source: Path | str,
    device: torch.device | str = "cpu",
    half: bool = False,
    tracking_uri: str | None = None,
) -> Package:
    """Return a model that predicts, in eval mode.

    source: as in `resolve`.  device: where it computes.  half: backbones in 16 bits.
    tracking_uri: where a registered model lies, see `find_tracking_uri`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        uri = find_tracking_uri(tracking_uri)
        return package.load(resolve(str(source), uri, Path(scratch) / "model"), device, half)


def resolve(source: str, tracking_uri: str, into: Path) -> Path:
    """Return the folder of a packaged model: `source` itself, or `into` after pulling it there.

    source: a folder, an archive or the http(s) address of either (see emlnet.registry.download),
    `models:/emlnet@alias`, `models:/emlnet/version` or `runs:/run_id`.
    """
    if (Path(source) / MODEL).is_file():
        return Path(source)
    found = MODEL_URI.fullmatch(source)
    if found:
        version = int(found["version"]) if found["version"] else None
        return pull(into, tracking_uri, alias=found["alias"], version=version)
    found = re.fullmatch(r"runs:/([0-9a-f]{32})/?", source)
    if found:
        return pull(into, tracking_uri, run=found[1])
    if is_source(source.partition("#")[0]):
        return fetch(source, into)
    raise ValueError(
        f"no model at {source!r}: it is neither a folder with {MODEL} nor models:/{NAME}@ALIAS, "
        f"models:/{NAME}/VERSION, runs:/RUN_ID, an archive or the address of one"
    )


def pull(
    folder: Path,
    tracking_uri: str,
    alias: str | None = None,
    version: int | None = None,
    run: str | None = None,
    sha256: str | None = None,
) -> Path:
    """Fetch a packaged model from the registry, or from a run, into a folder, and return it.

    folder: new, empty, or an earlier pull; it gets the whole model or keeps what it had.
    sha256: expected of model.json; default: what was registered.
    Raises ValueError when there is no such store, model, alias or run, or when a file is not what
    was saved.
    """
    check_target(folder)
    client = connect(tracking_uri)
    with store_errors(tracking_uri):
        if run is not None:
            source, location, owner = f"runs:/{run}/{PACKAGE}", f"runs:/{run}/{PACKAGE}", run
        else:
            found = find_version(client, alias, version)
            source, owner = f"models:/{NAME}/{found.version}", str(found.run_id)
            location = _find_location(client, found)
            sha256 = sha256 or found.tags.get(DIGEST_TAG)
        get = _find_artifacts(source, location, owner, tracking_uri)
        return assemble(folder, get, source, sha256)


def _find_location(client: MlflowClient, version: Any) -> str:
    """Return where a version's files are; MLflow's own look-up asks a global registry."""
    source: str = client.get_model_version_download_uri(NAME, version.version)
    logged = re.fullmatch(r"models:/(m-\w+)", source)
    if logged is None:
        return source
    location: str = client.get_logged_model(logged[1]).artifact_location
    return location


def _find_artifacts(source: str, location: str, run: str, tracking_uri: str) -> Get:
    """Return what downloads the files of a package from its location.

    A server that was started over a local store keeps files where only it can read them; those of
    the run are asked of the server then.
    """
    from mlflow import artifacts
    from mlflow.exceptions import MlflowException

    reason = f"{MODEL} is not there"
    for base in (location, f"{location}/artifacts/{PACKAGE}"):
        try:
            listed = artifacts.list_artifacts(artifact_uri=base, tracking_uri=tracking_uri)
        except (MlflowException, OSError) as error:
            reason = first_line(error)
            continue
        sizes = {Path(file.path).name: file.file_size or 0 for file in listed}
        if MODEL in sizes:
            return partial(_download_artifact, base, sizes, tracking_uri)
    if tracking_uri.startswith(("http://", "https://")):
        return partial(_download_from_server, tracking_uri, run)
    raise ValueError(f"{source} cannot be fetched from {public_url(tracking_uri)}: {reason}")


def _download_artifact(
    base: str, sizes: dict[str, int], tracking_uri: str, name: str, target: Path, limit: int
) -> None:
    from mlflow import artifacts
    from requests.exceptions import ChunkedEncodingError, ConnectionError

    if sizes.get(name, 0) > limit:
        raise ValueError(f"{base}/{name} has {sizes[name]} bytes, more than the {limit} expected")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        try:
            path = artifacts.download_artifacts(
                artifact_uri=f"{base}/{name}",
                dst_path=scratch,
                tracking_uri=tracking_uri,
                registry_uri=tracking_uri,
            )
        except (ChunkedEncodingError, ConnectionError) as error:
            raise BrokenDownloadError(f"{base}/{name} broke off: {first_line(error)}") from error
        Path(path).replace(target)


def _download_from_server(tracking_uri: str, run: str, name: str, target: Path, limit: int) -> None:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    shown = f"{PACKAGE}/{name} of run {run}"
    answer = http_request(
        get_default_host_creds(tracking_uri.rstrip("/")),
        "/get-artifact",
        "GET",
        params={"run_id": run, "path": f"{PACKAGE}/{name}"},
        stream=True,
    )
    with answer:
        if answer.status_code != 200:
            raise ValueError(
                f"{shown} cannot be fetched from {public_url(tracking_uri)}: "
                f"HTTP {answer.status_code}"
            )
        write_blocks(answer.iter_content(2**20), target, limit, shown)
