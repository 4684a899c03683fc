"""Models from folders, archives and the web."""

from __future__ import annotations

import http.server
import io
import json
import shutil
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from emlnet.__main__ import main
from emlnet.inference import package
from emlnet.inference.package import CARD, MODEL, WEIGHTS
from emlnet.registry import download
from emlnet.registry.download import BrokenDownloadError


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    """No waiting between tries."""
    monkeypatch.setattr(download.time, "sleep", lambda _: None)


@pytest.fixture
def model(make_encoder, tmp_path):
    """The folder of a packaged model."""
    about = {"name": "one", "licence": "CC0", "scores": {"kl": 0.25}}
    return package.save(tmp_path / "www" / "model", make_encoder(), about)


@pytest.fixture
def target(tmp_path):
    """A place for a model, in a folder of its own."""
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine" / "model"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves ranges; cuts what `server.cut` says after so many bytes, once per entry."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.logins += [given] if (given := self.headers.get("Authorization")) else []
        self.server.seen.append((self.path, self.headers.get("Range")))
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, start = path.read_bytes(), 0
        given = self.headers.get("Range")
        if given and self.server.ranges:
            start = int(given.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        rest = content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        cuts = self.server.cut.get(path.name, [])
        self.wfile.write(rest[: cuts.pop(0)] if cuts else rest)


@pytest.fixture
def server(tmp_path):
    """A server of the folder `www` on loopback."""
    (tmp_path / "www").mkdir(exist_ok=True)

    def handler(*args):
        return Handler(*args, directory=str(tmp_path / "www"))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.seen, server.logins, server.cut, server.ranges = [], [], {}, True
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tar(path, folder, prefix=""):
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, f"{prefix}{file.name}")
    return path


def same(folder, model):
    return {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in model.iterdir()
    }


def alone(target):
    return [path.name for path in target.parent.iterdir()]


def test_a_folder_is_copied_and_checked(model, target, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["pull", str(target), "--from", str(model)]) == 0
    assert same(target, model)
    assert alone(target) == ["model"]


@pytest.mark.parametrize("prefix", ["", "./", "emlnet-1/"])
def test_an_archive_is_unpacked(model, target, tmp_path, prefix):
    download.fetch(str(tar(tmp_path / "model.tar.gz", model, prefix)), target)
    assert same(target, model)


def test_a_zip_is_unpacked(model, target, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for file in model.iterdir():
            archive.write(file, f"m/{file.name}")
    download.fetch(str(tmp_path / "model.zip"), target)
    assert same(target, model)


@pytest.mark.parametrize("ending", ["", "/", f"/{MODEL}"])
def test_a_folder_on_the_web_is_fetched(model, target, server, ending, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["pull", str(target), "--from", f"{server.url}/model{ending}"]) == 0
    assert same(target, model)
    assert alone(target) == ["model"]


def test_an_archive_on_the_web_is_fetched_and_checked(model, target, server, tmp_path):
    archive = tar(tmp_path / "www" / "model.tgz", model)
    digest = package.file_digest(archive)
    download.fetch(f"{server.url}/model.tgz#sha256={digest}", target)
    assert same(target, model)
    with pytest.raises(ValueError, match=r"model\.tgz is not the file that was saved"):
        download.fetch(f"{server.url}/model.tgz#sha256={'0' * 64}", target)
    assert same(target, model)


@pytest.mark.parametrize(
    "source", ["{model}#sha256={hex}", "http://h/model#sha256={hex}", "http://h/m.tgz#sha256=",
               "http://h/m.tgz#sha256=12ab", "http://h/m.tgz#sha265={hex}"],
)  # fmt: skip
def test_a_digest_that_would_not_be_checked_is_refused(model, target, source):
    with pytest.raises(ValueError, match=r"says nothing: #sha256= and 64 hexadecimal digits"):
        download.fetch(source.format(model=model, hex="a" * 64), target)
    assert not target.exists()


def test_the_card_and_the_licence_are_said(model, target, capsys):
    main(["pull", str(target), "--from", str(model)])
    said = capsys.readouterr().out
    assert "pulled one into" in said
    assert "Scores: KL 0.250" in said
    assert "weights: CC0" in said
    assert "##" not in said


def test_a_broken_download_goes_on_where_it_stopped(model, target, server):
    size = (model / WEIGHTS).stat().st_size
    server.cut[WEIGHTS] = [1000, 500]
    download.fetch(f"{server.url}/model", target)
    assert same(target, model)
    ranges = [given for path, given in server.seen if path.endswith(WEIGHTS)]
    assert ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert size > 1500


def test_the_next_pull_goes_on_from_what_a_broken_one_kept(model, target, server):
    server.cut[WEIGHTS] = [1000, 0, 0, 0, 0]
    with pytest.raises(BrokenDownloadError, match=r"broke off after 1000 bytes.* goes on"):
        download.fetch(f"{server.url}/model", target)
    assert not target.exists()
    server.seen.clear()
    download.fetch(f"{server.url}/model", target)
    assert same(target, model)
    assert [given for path, given in server.seen if path.endswith(WEIGHTS)] == ["bytes=1000-"]
    assert alone(target) == ["model"]


def test_a_server_without_ranges_sends_it_all_again(model, target, server):
    server.ranges = False
    server.cut[WEIGHTS] = [1000]
    download.fetch(f"{server.url}/model", target)
    assert same(target, model)


def test_what_is_not_there_is_an_error_and_an_earlier_pull_stays(model, target, server):
    download.fetch(str(model), target)
    for source, found in (
        (f"{server.url}/none", "HTTP 404"),
        ("/nowhere/at/all", "no model at /nowhere/at/all"),
        (str(model.parent), "no model at"),
    ):
        with pytest.raises(ValueError, match=found):
            download.fetch(source, target)
    assert same(target, model)
    assert alone(target) == ["model"]


def test_a_changed_file_is_refused_and_an_earlier_pull_stays(
    model, target, server, tmp_path, change_byte
):
    download.fetch(str(model), target)
    shutil.copytree(model, tmp_path / "before")
    change_byte(model / WEIGHTS, -1)
    for source in (str(model), f"{server.url}/model"):
        with pytest.raises(ValueError, match=r"weights\.safetensors is not the file that was"):
            download.fetch(source, target)
    assert same(target, tmp_path / "before")
    assert alone(target) == ["model"]


def test_a_path_or_link_in_an_archive_leads_nowhere(model, target, tmp_path):
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.add(model / CARD, "../../outside/README.md")
        link = tarfile.TarInfo(MODEL)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"evil\.tar holds no packaged model"):
        download.fetch(str(tmp_path / "evil.tar"), target)
    assert alone(target) == []


def test_a_description_that_is_too_large_is_refused(model, target, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_DESCRIPTION", 10)
    with pytest.raises(ValueError, match=r"README\.md claims \d+ bytes"):
        download.fetch(str(tar(tmp_path / "m.tar.gz", model)), target)


def test_an_archive_that_is_none_is_refused(target, tmp_path):
    for name in ("m.tar.gz", "m.zip"):
        (tmp_path / name).write_bytes(b"not an archive")
        with pytest.raises(ValueError, match=f"{name} cannot be unpacked"):
            download.fetch(str(tmp_path / name), target)


def test_a_password_in_an_address_is_sent_but_not_shown(target, server):
    url = f"{server.url}/none.tar".replace("://", "://me:secret@")
    with pytest.raises(ValueError, match="cannot be fetched") as error:
        download.fetch(url, target)
    assert "secret" not in str(error.value)
    assert server.logins == ["Basic bWU6c2VjcmV0"]


def test_a_models_folder_named_in_model_json_stays_inside(model, target):
    described = json.loads((model / MODEL).read_text())
    described["files"]["../../evil"] = "0" * 64
    (model / MODEL).write_text(json.dumps(described))
    with pytest.raises(ValueError, match="names files"):
        download.fetch(str(model), target)


def test_two_sources_at_once_are_refused(model, target, capsys):
    assert main(["pull", str(target), "--from", str(model), "--alias", "champion"]) == 1
    assert "not several" in capsys.readouterr().err


def test_nothing_is_shown_of_progress_where_nobody_looks(model, target, server, capsys):
    download.fetch(f"{server.url}/model", target)
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    progress = download.Progress("http://127.0.0.1/a/model.tar?x")
    progress.add(2_000_000, 4_000_000)
    progress.close()
    assert screen.getvalue() == "\rmodel.tar: 2.0 of 4.0 MB\n"
