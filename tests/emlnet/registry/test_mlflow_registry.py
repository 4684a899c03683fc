"""The registry, on a SQLite store and over HTTP."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from emlnet.inference import package
from emlnet.registry import download, mlflow_registry


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory, monkeypatch):
    """Commands run in a folder of their own, without a store named by a variable."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def weights(folder):
    return (folder / package.WEIGHTS).read_bytes()


# --- pulling from a SQLite store


def test_a_model_is_pulled_by_alias(store, tmp_path):
    folder = mlflow_registry.pull(tmp_path / "a" / "model", store.uri, alias="champion")
    assert folder == tmp_path / "a" / "model"
    assert weights(folder) == weights(store.models[1])
    assert package.load(folder).about == {"name": "model 1"}
    assert {path.name for path in folder.iterdir()} == set(package.FILES)


def test_the_champion_is_what_is_pulled_by_default(store, tmp_path):
    assert weights(mlflow_registry.pull(tmp_path / "m", store.uri)) == weights(store.models[1])


def test_a_model_is_pulled_by_another_alias(store, tmp_path):
    folder = mlflow_registry.pull(tmp_path / "m", store.uri, alias="challenger")
    assert weights(folder) == weights(store.models[2])


def test_a_model_is_pulled_by_version(store, tmp_path):
    for version in (1, 2):
        folder = mlflow_registry.pull(tmp_path / str(version), store.uri, version=version)
        assert weights(folder) == weights(store.models[version])


def test_a_model_is_pulled_by_run(store, tmp_path):
    folder = mlflow_registry.pull(tmp_path / "m", store.uri, run=store.runs[2])
    assert weights(folder) == weights(store.models[2])


def test_pulling_leaves_nothing_else_behind(store, tmp_path):
    mlflow_registry.pull(tmp_path / "m", store.uri)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert not list(Path.cwd().iterdir())


def test_a_model_that_is_registered_from_a_runs_files_is_pulled(store, tmp_path):
    copy = tmp_path / "mlflow.db"
    shutil.copyfile(store.path, copy)
    client = mlflow_registry.connect(f"sqlite:///{copy}")
    run = client.get_run(store.runs[1])
    source = f"{run.info.artifact_uri}/{mlflow_registry.PACKAGE}"
    made = client.create_model_version(mlflow_registry.NAME, source, run.info.run_id)
    folder = mlflow_registry.pull(tmp_path / "m", f"sqlite:///{copy}", version=int(made.version))
    assert weights(folder) == weights(store.models[1])


def test_an_earlier_pull_is_replaced(store, tmp_path):
    mlflow_registry.pull(tmp_path / "m", store.uri, version=1)
    mlflow_registry.pull(tmp_path / "m", store.uri, version=2)
    assert weights(tmp_path / "m") == weights(store.models[2])


def test_an_empty_folder_is_filled(store, tmp_path):
    (tmp_path / "m").mkdir()
    mlflow_registry.pull(tmp_path / "m", store.uri)
    package.load(tmp_path / "m")


def test_a_folder_with_other_files_is_refused_and_kept(store, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files \(notes\.txt\); name a new folder"):
        mlflow_registry.pull(tmp_path, store.uri)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(store, tmp_path):
    (tmp_path / "m").write_text("mine")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        mlflow_registry.pull(tmp_path / "m", store.uri)


def test_a_wrong_alias_is_refused_with_the_aliases_there_are(store, tmp_path):
    expected = (
        r"emlnet has no alias 'champoin'; its aliases are: "
        r"challenger \(version 2\), champion \(version 1\)"
    )
    with pytest.raises(ValueError, match=expected):
        mlflow_registry.pull(tmp_path / "m", store.uri, alias="champoin")
    assert not (tmp_path / "m").exists()


def test_a_wrong_version_is_refused_with_the_aliases_there_are(store, tmp_path):
    with pytest.raises(ValueError, match=r"has no version 99; its aliases are: challenger"):
        mlflow_registry.pull(tmp_path / "m", store.uri, version=99)


@pytest.mark.parametrize("run", ["0" * 32, "no run"])
def test_a_wrong_run_is_refused_by_name(store, tmp_path, run):
    with pytest.raises(ValueError, match=f"runs:/{run}/package cannot be fetched"):
        mlflow_registry.pull(tmp_path / "m", store.uri, run=run)


def test_a_damaged_model_is_refused_and_the_earlier_pull_kept(store, tmp_path):
    folder = mlflow_registry.pull(tmp_path / "m", store.uri, version=1)
    with pytest.raises(ValueError, match="is not the file that was saved"):
        mlflow_registry.pull(folder, store.uri, run=store.damaged)
    assert weights(folder) == weights(store.models[1])
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_run_without_a_model_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match=f"runs:/{store.empty}/package"):
        mlflow_registry.pull(tmp_path / "m", store.uri, run=store.empty)


def test_a_store_without_models_says_how_to_make_one(store, tmp_path):
    # A copy of the store whose model was deleted.
    copy = tmp_path / "mlflow.db"
    shutil.copyfile(store.path, copy)
    uri = f"sqlite:///{copy}"
    mlflow_registry.connect(uri).delete_registered_model(mlflow_registry.NAME)
    with pytest.raises(ValueError, match=r"no model is registered as 'emlnet'.*pipelines full"):
        mlflow_registry.pull(tmp_path / "m", uri)


def test_a_path_without_a_store_is_refused_and_none_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"no MLflow store at .*none\.db"):
        mlflow_registry.pull(tmp_path / "m", f"sqlite:///{tmp_path / 'none.db'}")
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_named_at_once(tmp_path, free_port):
    began = time.monotonic()
    with pytest.raises(
        ValueError, match=f"no MLflow server answers at http://127.0.0.1:{free_port}"
    ):
        mlflow_registry.pull(tmp_path / "m", f"http://127.0.0.1:{free_port}")
    assert time.monotonic() - began < 15


def test_the_champion_is_the_version_that_holds_the_alias(store):
    assert int(mlflow_registry.find_version(mlflow_registry.connect(store.uri)).version) == 1


def test_a_download_that_breaks_off_is_tried_again(store, tmp_path, monkeypatch):
    from mlflow import artifacts
    from requests.exceptions import ChunkedEncodingError

    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    real, broken = artifacts.download_artifacts, [True, True]

    def unsteady(**options):
        if options["artifact_uri"].endswith(package.WEIGHTS) and broken:
            broken.pop()
            raise ChunkedEncodingError("cut")
        return real(**options)

    monkeypatch.setattr(artifacts, "download_artifacts", unsteady)
    assert weights(mlflow_registry.pull(tmp_path / "m", store.uri)) == weights(store.models[1])
    broken += [True] * 3
    with pytest.raises(download.BrokenDownloadError, match=r"weights\.safetensors broke off: cut"):
        mlflow_registry.pull(tmp_path / "n", store.uri)
    assert not (tmp_path / "n").exists()


STORES = {
    "foreign": "is a SQLite database, but not MLflow's",
    "text": "cannot be read: file is not a database",
    "locked": "cannot be read: database is locked",
    "plain path": r"did you mean sqlite:///.*foreign",
    "folder": r"did you mean sqlite:///.*mlruns/mlflow\.db",
}


@pytest.mark.parametrize("kind", list(STORES))
def test_a_store_that_cannot_be_used_is_told_in_one_line(tmp_path, kind, monkeypatch):
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "text").write_text("no database" * 100)
    for name in ("foreign", "locked"):
        with sqlite3.connect(tmp_path / name) as database:
            database.execute("CREATE TABLE birds (name TEXT)")
    holder = sqlite3.connect(tmp_path / "locked", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, timeout=0.1))
    path = tmp_path / {"plain path": "foreign", "folder": "mlruns"}.get(kind, kind)
    uri = str(path) if kind in ("plain path", "folder") else f"sqlite:///{path}"
    with pytest.raises(ValueError, match=STORES[kind]) as error:
        mlflow_registry.pull(tmp_path / "m", uri)
    assert "\n" not in str(error.value)
    holder.close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"no", "wants a login"),
        (403, b"no", "refuses access"),
        (503, b"no", "answers with HTTP 503"),
        (200, b"<html>hello</html>", "answers with another page"),
        (200, b"[]", "answers with another page"),
    ],
)
def test_a_server_that_refuses_or_is_another_is_told_without_its_password(
    tmp_path, status, body, said
):
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        uri = f"http://me:secret@127.0.0.1:{server.server_port}"
        with pytest.raises(ValueError, match=said) as error:
            mlflow_registry.pull(tmp_path / "m", uri)
        server.shutdown()
        thread.join()
    assert "secret" not in str(error.value)
    assert f"http://127.0.0.1:{server.server_port}" in str(error.value)


def test_a_pinned_digest_is_held_to_the_registered_model(store, tmp_path):
    digest = package.file_digest(store.models[1] / package.MODEL)
    mlflow_registry.pull(tmp_path / "m", store.uri, sha256=digest)
    with pytest.raises(ValueError, match=r"model\.json is not the file that was saved"):
        mlflow_registry.pull(tmp_path / "m", store.uri, version=2, sha256=digest)


def test_weights_larger_than_model_json_says_are_not_downloaded(store, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_TEXT", 10)
    with pytest.raises(ValueError, match=r"model\.json has \d+ bytes, more than the 10"):
        mlflow_registry.pull(tmp_path / "m", store.uri)


def test_a_description_that_is_not_the_registered_one_is_refused(store, tmp_path):
    copy = tmp_path / "mlflow.db"
    shutil.copyfile(store.path, copy)
    client = mlflow_registry.connect(f"sqlite:///{copy}")
    client.set_model_version_tag(mlflow_registry.NAME, "1", mlflow_registry.DIGEST_TAG, "0" * 64)
    with pytest.raises(ValueError, match=r"model\.json is not the file that was saved"):
        mlflow_registry.pull(tmp_path / "m", f"sqlite:///{copy}")


# --- what a model is called


def test_a_folder_is_a_model_by_itself(store, tmp_path):
    assert (
        mlflow_registry.resolve(str(store.models[1]), "sqlite:///none.db", tmp_path / "m")
        == (store.models[1])
    )


@pytest.mark.parametrize(
    ("uri", "version"),
    [("models:/emlnet@champion", 1), ("models:/emlnet@challenger", 2), ("models:/emlnet/2", 2)],
)
def test_a_registered_model_is_called_by_alias_or_version(store, tmp_path, uri, version):
    folder = mlflow_registry.resolve(uri, store.uri, tmp_path / "m")
    assert weights(folder) == weights(store.models[version])


def test_a_run_is_called_by_its_id(store, tmp_path):
    folder = mlflow_registry.resolve(f"runs:/{store.runs[2]}", store.uri, tmp_path / "m")
    assert weights(folder) == weights(store.models[2])


@pytest.mark.parametrize(
    "uri", ["nowhere", "models:/other@champion", "models:/emlnet", "runs:/x", ""]
)
def test_what_names_no_model_is_refused_with_what_would(store, tmp_path, uri):
    with pytest.raises(ValueError, match=r"neither a folder with model\.json nor models:/emlnet@"):
        mlflow_registry.resolve(uri, store.uri, tmp_path / "m")


def test_the_store_is_the_variables_or_lies_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example.org")
    assert mlflow_registry.find_tracking_uri() == "http://example.org"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    assert mlflow_registry.find_tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"


# --- over HTTP


@pytest.fixture
def server(store, tmp_path, free_port):
    """The address of a real server of a store of its own, with one registered model."""
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(free_port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    uri = f"http://127.0.0.1:{free_port}"
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail((tmp_path / "server.log").read_text())
                time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.mark.slow
def test_a_model_is_pulled_over_http(server, store, tmp_path, register, monkeypatch):
    run = register(server, store.models[2], "champion")
    for number, options in enumerate([{}, {"version": 1}, {"run": run}]):
        folder = mlflow_registry.pull(tmp_path / f"m{number}", server, **options)
        assert weights(folder) == weights(store.models[2])
        package.load(folder)
    with pytest.raises(ValueError, match=r"no alias 'x'; its aliases are: champion \(version 1\)"):
        mlflow_registry.pull(tmp_path / "m", server, alias="x")
    with pytest.raises(ValueError, match="cannot be fetched"):
        mlflow_registry.pull(tmp_path / "m", server, run="0" * 32)

    from mlflow import artifacts

    # As on a machine that does not see the disk on which the server keeps files.
    monkeypatch.setattr(artifacts, "list_artifacts", lambda **_: [])
    for number, options in enumerate([{}, {"run": run}]):
        folder = mlflow_registry.pull(tmp_path / f"far{number}", server, **options)
        assert weights(folder) == weights(store.models[2])
    with pytest.raises(ValueError, match="cannot be fetched"):
        mlflow_registry.pull(tmp_path / "m", server, run="0" * 32)
