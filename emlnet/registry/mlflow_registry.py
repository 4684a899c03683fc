"""The MLflow registry: versions of models, the aliases that point at the best, and pulling one.

`mlflow` is imported here alone, at first use; a folder needs no MLflow.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emlnet.extras import require_extra
from emlnet.inference import package
from emlnet.inference.package import MODEL, Package, check_target, file_digest
from emlnet.registry.download import BrokenDownloadError, Get, assemble, fetch, is_source

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

MODEL_URI = re.compile(rf"models:/{NAME}(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))")

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
"""What MLflow's stores answer for a model, version or alias that is not there."""


class NotRegisteredError(ValueError):
    """The registry has no such model, version or alias."""


class UnreachableError(ValueError):
    """A file that is not where the store says, or not to be read from here."""


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
    require_extra("registry", "mlflow", "sqlalchemy", "alembic")
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
        raise NotRegisteredError(NONE_REGISTERED) from None
    aliases = ", ".join(f"{a} (version {v})" for a, v in sorted(known.aliases.items())) or "none"
    wanted = f"version {version}" if version is not None else f"alias {alias or CHAMPION!r}"
    raise NotRegisteredError(f"{NAME} has no {wanted}; its aliases are: {aliases}")


def find_uri(client: MlflowClient, uri: str) -> Any:
    """The registered version that `models:/emlnet@alias` or `models:/emlnet/version` names.

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
    """A model that predicts, in eval mode.

    source: what `resolve` takes.  device: where it computes.  half: backbones in 16 bits.
    tracking_uri: where a registered model lies, see `find_tracking_uri`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        uri = find_tracking_uri(tracking_uri)
        return package.load(resolve(str(source), uri, Path(scratch) / "model"), device, half)


def resolve(source: str, tracking_uri: str, into: Path) -> Path:
    """The folder of a packaged model: `source` itself, or what it names, pulled into `into`.

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
) -> Path:
    """Fetches a packaged model from the registry, or from a run, into a folder of its own.

    The folder must be new, empty, or hold an earlier pull; it gets the whole model or keeps what
    it had.  Raises ValueError when there is no such store, model, alias or run, or when a file is
    not what was saved.
    """
    check_target(folder)
    client = connect(tracking_uri)
    expected = None
    if run is not None:
        source = f"runs:/{run}/{PACKAGE}"
        where, owner = source, run
    else:
        found = find_version(client, alias, version)
        source = f"models:/{NAME}/{found.version}"
        where, owner = _location(client, found), str(found.run_id)
        expected = found.tags.get(DIGEST_TAG)

    def opened(part: Path) -> Get:
        bases: Sequence[str] = (where, f"{where}/artifacts/{PACKAGE}")

        def get(name: str, target: Path) -> None:
            nonlocal bases
            try:
                path, base = _download(bases, name, source, tracking_uri, part / "mlflow")
                bases = (base,)
            except UnreachableError:
                path = part / "mlflow" / name
                if not _ask_server(tracking_uri, owner, name, path):
                    raise
            if name == MODEL and expected and file_digest(path) != expected:
                raise ValueError(f"{source}: {MODEL} is not the file that was registered")
            path.replace(target)

        return get

    return assemble(folder, opened, source)


def _location(client: MlflowClient, version: Any) -> str:
    """Where a version's files are; MLflow's own look-up of models:/ asks its global registry."""
    source: str = client.get_model_version_download_uri(NAME, version.version)
    logged = re.fullmatch(r"models:/(m-\w+)", source)
    if logged is None:
        return source
    location: str = client.get_logged_model(logged[1]).artifact_location
    return location


def _download(
    bases: Sequence[str], name: str, source: str, tracking_uri: str, scratch: Path
) -> tuple[Path, str]:
    """Downloads one file of `source` from the first base that holds it; the file and the base."""
    from mlflow import artifacts
    from mlflow.exceptions import MlflowException
    from requests.exceptions import ChunkedEncodingError, ConnectionError

    for base in bases:
        for last in (False, False, True):
            try:
                local = artifacts.download_artifacts(
                    artifact_uri=f"{base}/{name}",
                    dst_path=str(scratch),
                    tracking_uri=tracking_uri,
                    registry_uri=tracking_uri,
                )
            except (ChunkedEncodingError, ConnectionError) as error:
                if last:
                    raise BrokenDownloadError(f"{source}: {name} broke off: {error}") from error
                continue
            except (MlflowException, OSError) as error:
                reason: Exception = error
                break
            if Path(local).is_file():
                return Path(local), base
            reason = OSError(f"{name} is no file")
            break
    raise UnreachableError(
        f"{source} cannot be fetched from {tracking_uri}: {name}: {reason}"
    ) from reason


def _ask_server(tracking_uri: str, run: str, name: str, target: Path) -> bool:
    """Fetches a file of a run's package through an MLflow server; whether there was one.

    A server that was started over a local store keeps files where it alone can read them.
    """
    if not tracking_uri.startswith(("http://", "https://")):
        return False
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request
    from requests import RequestException

    where = {"run_id": run, "path": f"{PACKAGE}/{name}"}
    server = get_default_host_creds(tracking_uri.rstrip("/"))
    try:
        with http_request(server, "/get-artifact", "GET", params=where, stream=True) as answer:
            if answer.status_code != 200:
                return False
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for block in answer.iter_content(2**20):
                    file.write(block)
    except MlflowException:
        return False
    except RequestException as error:
        raise BrokenDownloadError(f"{where['path']} of run {run} broke off: {error}") from error
    return True
