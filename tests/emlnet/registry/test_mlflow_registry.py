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
from emlnet.registry import download, mlflow_registry, model_sources


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory, monkeypatch):
    """Commands run in a folder of their own, without a store named by a variable."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def weights(folder):
    return (folder / package.WEIGHTS).read_bytes()


# --- pulling from a SQLite store


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        ({}, 1),
        ({"alias": "champion"}, 1),
        ({"alias": "challenger"}, 2),
        ({"version": 1}, 1),
        ({"version": 2}, 2),
        ({"run": 2}, 2),
    ],
)
def test_a_model_is_pulled_by_alias_version_or_run(store, tmp_path, wanted, version):
    if "run" in wanted:
        wanted = {"run": store.runs[2]}
    folder = mlflow_registry.pull(tmp_path / "a" / "model", store.uri, **wanted)
    assert folder == tmp_path / "a" / "model"
    assert weights(folder) == weights(store.models[version])
    assert package.load(folder).about == {"name": f"model {version}"}
    assert {path.name for path in folder.iterdir()} == set(package.FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert not list(Path.cwd().iterdir())


def test_an_empty_folder_or_an_earlier_pull_is_replaced(store, tmp_path):
    (tmp_path / "m").mkdir()
    for version in (1, 2):
        mlflow_registry.pull(tmp_path / "m", store.uri, version=version)
        assert weights(tmp_path / "m") == weights(store.models[version])


def test_a_place_that_holds_something_else_is_refused_and_kept(store, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for place, said in (
        (tmp_path, r"other files \(notes\.txt\)"),
        (tmp_path / "notes.txt", "a file"),
    ):
        with pytest.raises(ValueError, match=rf"{said}.*; name a"):
            mlflow_registry.pull(place, store.uri)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"alias": "champoin"}, r"emlnet has no alias 'champoin'; its aliases are: challenger "
         r"\(version 2\), champion \(version 1\)"),
        ({"version": 99}, r"has no version 99; its aliases are: challenger"),
        ({"run": "0" * 32}, f"runs:/{'0' * 32}/package/model.json cannot be fetched"),
        ({"run": "no run"}, "runs:/no run/package/model.json cannot be fetched"),
        ({"run": "empty"}, r"runs:/\w+/package/model.json cannot be fetched"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_by_name(store, tmp_path, wanted, said):
    if wanted.get("run") == "empty":
        wanted = {"run": store.empty}
    with pytest.raises(ValueError, match=said) as error:
        mlflow_registry.pull(tmp_path / "m", store.uri, **wanted)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_damaged_model_is_refused_and_the_earlier_pull_kept(store, tmp_path):
    folder = mlflow_registry.pull(tmp_path / "m", store.uri, version=1)
    with pytest.raises(ValueError, match="has changed since it was saved"):
        mlflow_registry.pull(folder, store.uri, run=store.damaged)
    assert weights(folder) == weights(store.models[1])
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_store_without_models_says_how_to_make_one(store, tmp_path):
    # A copy of the store whose model was deleted.
    copy = tmp_path / "mlflow.db"
    shutil.copyfile(store.path, copy)
    uri = f"sqlite:///{copy}"
    mlflow_registry.connect(uri).delete_registered_model(mlflow_registry.NAME)
    with pytest.raises(ValueError, match=r"no model is registered as 'emlnet'.*pipelines full"):
        mlflow_registry.pull(tmp_path / "m", uri)


def test_a_server_that_does_not_answer_is_named_at_once(tmp_path, free_port):
    began = time.monotonic()
    with pytest.raises(
        ValueError, match=f"no MLflow server answers at http://127.0.0.1:{free_port}"
    ):
        mlflow_registry.pull(tmp_path / "m", f"http://127.0.0.1:{free_port}")
    assert time.monotonic() - began < 15


STORES = {
    "none": r"no MLflow store at .*/none",
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
        (401, b"no", "requires a login"),
        (403, b"no", "refuses access"),
        (503, b"no", "answers with HTTP 503"),
        (200, b"<html>hello</html>", "answers, but not as MLflow does"),
        (200, b"[]", "answers, but not as MLflow does"),
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
    with pytest.raises(ValueError, match=r"model\.json has changed since it was saved"):
        mlflow_registry.pull(tmp_path / "m", store.uri, version=2, sha256=digest)


def test_a_text_that_is_too_large_is_refused(store, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_TEXT", 10)
    with pytest.raises(ValueError, match=r"model\.json has more than the 10 bytes"):
        mlflow_registry.pull(tmp_path / "m", store.uri)


def test_a_description_that_is_not_the_registered_one_is_refused(store, tmp_path):
    copy = tmp_path / "mlflow.db"
    shutil.copyfile(store.path, copy)
    client = mlflow_registry.connect(f"sqlite:///{copy}")
    client.set_model_version_tag(mlflow_registry.NAME, "1", mlflow_registry.DIGEST_TAG, "0" * 64)
    with pytest.raises(ValueError, match=r"model\.json has changed since it was saved"):
        mlflow_registry.pull(tmp_path / "m", f"sqlite:///{copy}")


# --- what a model is called


def test_a_folder_is_a_model_by_itself(store, tmp_path):
    assert (
        model_sources.resolve(str(store.models[1]), "sqlite:///none.db", tmp_path / "m")
        == (store.models[1])
    )


@pytest.mark.parametrize(
    ("uri", "version"),
    [
        ("models:/emlnet@champion", 1),
        ("models:/emlnet@challenger", 2),
        ("models:/emlnet/2", 2),
        ("runs:/{run}", 2),
    ],
)
def test_a_registered_model_is_called_by_alias_version_or_run(store, tmp_path, uri, version):
    folder = model_sources.resolve(uri.format(run=store.runs[2]), store.uri, tmp_path / "m")
    assert weights(folder) == weights(store.models[version])


@pytest.mark.parametrize(
    "uri", ["nowhere", "models:/other@champion", "models:/emlnet", "runs:/x", ""]
)
def test_what_names_no_model_is_refused_with_what_would(store, tmp_path, uri):
    with pytest.raises(ValueError, match=r"no model at .*model\.json.*, or models:/emlnet@ALIAS"):
        model_sources.resolve(uri, store.uri, tmp_path / "m")


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
def test_a_model_is_pulled_over_http(server, store, tmp_path, register):
    run = register(server, store.models[2], "champion")
    for number, options in enumerate([{}, {"version": 1}, {"run": run}]):
        folder = mlflow_registry.pull(tmp_path / f"m{number}", server, **options)
        assert weights(folder) == weights(store.models[2])
        package.load(folder)
    with pytest.raises(ValueError, match=r"no alias 'x'; its aliases are: champion \(version 1\)"):
        mlflow_registry.pull(tmp_path / "m", server, alias="x")
    with pytest.raises(ValueError, match=r"cannot be fetched .*HTTP 404"):
        mlflow_registry.pull(tmp_path / "m", server, run="0" * 32)
