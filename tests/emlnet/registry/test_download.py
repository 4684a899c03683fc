"""Models from folders, archives and the web."""

from __future__ import annotations

import errno
import gzip
import http.server
import json
import re
import shutil
import sys
import tarfile
import threading
import urllib.request
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
    """Cuts the files in `server.cut` after so many bytes, once per entry."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.logins += [given] if (given := self.headers.get("Authorization")) else []
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cuts = self.server.cut.get(path.name, [])
        self.wfile.write(content[: cuts.pop(0)] if cuts else content)


@pytest.fixture
def server(tmp_path):
    """A server of the folder `www` on loopback."""
    (tmp_path / "www").mkdir(exist_ok=True)

    def handler(*args):
        return Handler(*args, directory=str(tmp_path / "www"))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.logins, server.cut = [], {}
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


def zipped(path, folder):
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"m/{file.name}")
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
    download.fetch(str(zipped(tmp_path / "model.zip", model)), target)
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
    with pytest.raises(ValueError, match=r"is not used: #sha256= and 64 hexadecimal digits"):
        download.fetch(source.format(model=model, hex="a" * 64), target)
    assert not target.exists()


def test_the_card_and_the_licence_are_said(model, target, capsys):
    main(["pull", str(target), "--from", str(model)])
    said = capsys.readouterr().out
    assert "pulled one into" in said
    assert "Scores: KL 0.250" in said
    assert "weights: CC0" in said
    assert "##" not in said


def test_a_download_that_breaks_off_is_tried_again(model, target, server):
    server.cut[WEIGHTS] = [1000, 500]
    download.fetch(f"{server.url}/model", target)
    assert same(target, model)
    server.cut[WEIGHTS] = [1000, 500, 0]
    with pytest.raises(BrokenDownloadError, match=r"broke off after 0 of \d+ bytes"):
        download.fetch(f"{server.url}/model", target)
    assert same(target, model)
    assert alone(target) == ["model"]


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
    for name, kind in (("../../outside/README.md", tarfile.REGTYPE), (MODEL, tarfile.SYMTYPE)):
        with tarfile.open(tmp_path / "evil.tar", "w") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        with pytest.raises(
            ValueError, match=r"evil\.tar cannot be unpacked: .*(outside|absolute path)"
        ):
            download.fetch(str(tmp_path / "evil.tar"), target)
    assert alone(target) == []


def test_a_model_that_a_killed_pull_had_moved_away_is_put_back(model, target):
    download.fetch(str(model), target)
    target.rename(target.with_name(".model.old"))
    with pytest.raises(ValueError, match="no model at"):
        download.fetch("/nowhere", target)
    (model / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"weights\.safetensors cannot be read"):
        download.fetch(str(model), target)
    assert sorted(path.name for path in target.iterdir()) == sorted([CARD, MODEL, WEIGHTS])
    assert alone(target) == ["model"]


@pytest.mark.parametrize("limit", ["MAX_ARCHIVE", "MAX_MEMBERS"])
@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
def test_an_archive_is_measured_before_it_is_unpacked(
    model, target, tmp_path, limit, ending, monkeypatch
):
    monkeypatch.setattr(download, limit, 2)
    path = tmp_path / f"m.{ending}"
    tar(path, model) if ending == "tar.gz" else zipped(path, model)
    with pytest.raises(ValueError, match=r"cannot be unpacked: it claims more than"):
        download.fetch(str(path), target)
    assert alone(target) == []


@pytest.mark.parametrize("name", [MODEL, CARD])
def test_a_text_that_is_too_large_is_refused(model, target, server, name, monkeypatch):
    monkeypatch.setattr(download, "MAX_TEXT", (model / MODEL).stat().st_size)
    (model / name).write_bytes(b" " * 20_000)
    for source in (str(model), f"{server.url}/model"):
        with pytest.raises(ValueError, match=rf"{name} has .*more than the \d+"):
            download.fetch(source, target)


@pytest.mark.parametrize("where", ["folder", "web"])
def test_weights_larger_than_model_json_says_are_not_downloaded(model, target, server, where):
    with (model / WEIGHTS).open("ab") as file:
        file.write(bytes(1000))
    source = str(model) if where == "folder" else f"{server.url}/model"
    with pytest.raises(ValueError, match=r"weights\.safetensors has .*more than the \d+"):
        download.fetch(source, target)
    assert alone(target) == []


def test_a_pinned_digest_is_held_to_model_json(model, target, server, capsys):
    assert main(["pull", str(target), "--from", str(model)]) == 0
    (digest,) = re.findall("--sha256 ([0-9a-f]{64})", capsys.readouterr().out)
    assert digest == package.file_digest(model / MODEL)
    for source in (str(model), f"{server.url}/model"):
        assert main(["pull", str(target), "--from", source, "--sha256", digest]) == 0
        assert main(["pull", str(target), "--from", source, "--sha256", "0" * 64]) == 1
        assert "model.json is not the file that was saved" in capsys.readouterr().err
    assert main(["pull", str(target), "--from", source, "--sha256", "12"]) == 1
    assert "64 hexadecimal digits" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["http://127.0.0.1/model.json", "ftp://h/x", "file:///etc/passwd"])
def test_an_encrypted_address_does_not_lead_to_an_open_one(to):
    handler = download._SafeRedirects()
    request = urllib.request.Request("https://user@example.org/model.json?signature=s")
    with pytest.raises(ValueError, match=r"https://example.org/model.json redirects to .* not enc"):
        handler.redirect_request(request, None, 302, "", {}, to)
    assert handler.redirect_request(request, None, 302, "", {}, "https://h/x").full_url


def test_an_archive_that_is_none_is_refused(target, tmp_path):
    for name, content in (
        ("m.tar.gz", b"not an archive"),
        ("m.zip", b"not an archive"),
        ("m.tar", b""),
        ("cut.tgz", gzip.compress(bytes(5000))[:-9]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} (cannot be unpacked|holds no packaged)"):
            download.fetch(str(tmp_path / name), target)


def test_a_full_disk_is_not_blamed_on_the_source(model, target, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "write_blocks", full)
    with pytest.raises(OSError, match="No space left") as error:
        download.fetch(str(model), target)
    assert not isinstance(error.value, ValueError)


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
