"""The MLflow registry: versions of models, the aliases that point at the best, and pulling one.

`mlflow` is imported here alone, at first use; a folder needs no MLflow.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emlnet.package import MODEL, WEIGHTS, read_description

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "emlnet"
CHAMPION = "champion"
PACKAGE = "package"
"""The folder among a run's artifacts that holds its packaged model."""


ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
"""What MLflow's stores answer for a model, version or alias that is not there."""


class NotRegisteredError(ValueError):
    """The registry has no such model, version or alias."""


def find_tracking_uri(given: str | None = None) -> str:
    """The store to use: what was given, else MLFLOW_TRACKING_URI, else SQLite in this folder.

    A SQLite file's path is made absolute: other processes have other working folders.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri


def connect(tracking_uri: str) -> MlflowClient:
    """A client of a tracking store.

    Raises ValueError when there is none at that address: a server that does not answer within
    seconds, a SQLite file that does not exist.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if tracking_uri.startswith(("http://", "https://")):
        _check_server(tracking_uri)
    elif tracking_uri.startswith("sqlite:///"):
        path = Path(tracking_uri.removeprefix("sqlite:///"))
        if not path.is_file():
            raise ValueError(
                f"no MLflow store at {path}; train a model first, or name a store with "
                "--tracking-uri or MLFLOW_TRACKING_URI"
            )
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _check_server(tracking_uri: str) -> None:
    import requests

    try:
        answer = requests.get(f"{tracking_uri.rstrip('/')}/health", timeout=10)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise ValueError(
            f"no MLflow server answers at {tracking_uri} ({type(error).__name__}); start one with "
            "`mlflow server`, or name another with --tracking-uri"
        ) from None


def find_version(client: MlflowClient, alias: str | None = None, version: int | None = None) -> Any:
    """The registered version by number or alias.

    Raises NotRegisteredError that lists what there is.
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
        raise NotRegisteredError(
            f"no model is registered as {NAME!r}; `python -m pipelines full` registers one"
        ) from None
    aliases = ", ".join(f"{a} (version {v})" for a, v in sorted(known.aliases.items())) or "none"
    wanted = f"version {version}" if version is not None else f"alias {alias or CHAMPION!r}"
    raise NotRegisteredError(f"{NAME} has no {wanted}; its aliases are: {aliases}")


def champion(client: MlflowClient) -> Any | None:
    """The version that holds the alias `champion`, or None."""
    try:
        return find_version(client, CHAMPION)
    except NotRegisteredError:
        return None


def resolve(uri: str, tracking_uri: str, into: Path) -> Path:
    """The folder of a packaged model: `uri` itself, or what it names, pulled into `into`.

    uri: a folder, `models:/emlnet@alias`, `models:/emlnet/version` or `runs:/run_id`.
    """
    if (Path(uri) / MODEL).is_file():
        return Path(uri)
    found = re.fullmatch(rf"models:/{NAME}(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))", uri)
    if found:
        version = int(found["version"]) if found["version"] else None
        return pull(into, tracking_uri, alias=found["alias"], version=version)
    found = re.fullmatch(r"runs:/([0-9a-f]{32})/?", uri)
    if found:
        return pull(into, tracking_uri, run=found[1])
    raise ValueError(
        f"no model at {uri!r}: it is neither a folder with {MODEL} nor models:/{NAME}@ALIAS, "
        f"models:/{NAME}/VERSION or runs:/RUN_ID"
    )


def pull(
    folder: Path,
    tracking_uri: str,
    alias: str | None = None,
    version: int | None = None,
    run: str | None = None,
) -> Path:
    """Fetches a packaged model from the registry, or from a run, into a folder of its own.

    The folder must be new, empty, or hold an earlier pull; it gets the whole model or keeps what
    it had.  Raises ValueError when there is no such store, model, alias or run, or when a file is
    not what was saved.
    """
    check_target(folder)
    client = connect(tracking_uri)
    if run is not None:
        source = f"runs:/{run}/{PACKAGE}"
        where = source
    else:
        found_version = find_version(client, alias, version)
        source = f"models:/{NAME}/{found_version.version}"
        where = _location(client, found_version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".pull-") as scratch:
        found = _download(where, source, tracking_uri, Path(scratch))
        read_description(found)
        whole = Path(scratch) / "whole"
        whole.mkdir()
        for name in (MODEL, WEIGHTS):
            shutil.copyfile(found / name, whole / name)
        shutil.rmtree(folder, ignore_errors=True)
        whole.replace(folder)
    return folder


def check_target(folder: Path) -> None:
    """Raises ValueError when a folder holds anything but a packaged model."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the model")
    others = {p.name for p in folder.iterdir()} - {MODEL, WEIGHTS} if folder.is_dir() else set()
    if others:
        raise ValueError(f"{folder} holds other files ({sorted(others)[0]}); name a new folder")


def _location(client: MlflowClient, version: Any) -> str:
    """Where a version's files are; MLflow's own look-up of models:/ asks its global registry."""
    source: str = client.get_model_version_download_uri(NAME, version.version)
    logged = re.fullmatch(r"models:/(m-\w+)", source)
    if logged is None:
        return source
    location: str = client.get_logged_model(logged[1]).artifact_location
    return location


def _download(where: str, source: str, tracking_uri: str, scratch: Path) -> Path:
    """Downloads the files of `source`, which lie at `where`, and finds the packaged model."""
    from mlflow import artifacts
    from mlflow.exceptions import MlflowException

    try:
        local = artifacts.download_artifacts(
            artifact_uri=where,
            dst_path=str(scratch / "files"),
            tracking_uri=tracking_uri,
            registry_uri=tracking_uri,
        )
    except (MlflowException, OSError) as error:
        raise ValueError(f"{source} cannot be fetched from {tracking_uri}: {error}") from error
    for candidate in (Path(local), Path(local) / "artifacts" / PACKAGE):
        if (candidate / MODEL).is_file():
            return candidate
    raise ValueError(f"{source} holds no packaged model ({MODEL} is missing)")
