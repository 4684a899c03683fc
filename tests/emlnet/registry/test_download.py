"""Models from folders, archives and the web."""

from __future__ import annotations

import errno
import gzip
import http.server
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


def pack(path, folder, prefix=""):
    """Writes a folder's files as an archive."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"{prefix}{file.name}")
    else:
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


@pytest.mark.parametrize(
    "source", ["{model}", "{url}/model", "{url}/model/", "{url}/model/" + MODEL]
)
def test_a_folder_is_copied_or_fetched_without_mlflow(model, target, server, source, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["pull", str(target), "--from", source.format(model=model, url=server.url)]) == 0
    assert same(target, model)
    assert alone(target) == ["model"]


@pytest.mark.parametrize(
    ("name", "prefix"), [("m.tar.gz", ""), ("m.tgz", "./"), ("m.tar.gz", "emlnet-1/"),
                         ("m.zip", "m/"), ("m.zip", "")],
)  # fmt: skip
def test_an_archive_is_read(model, target, tmp_path, name, prefix):
    download.fetch(str(pack(tmp_path / name, model, prefix)), target)
    assert same(target, model)


def test_an_archive_on_the_web_is_fetched_and_checked(model, target, server, tmp_path):
    archive = pack(tmp_path / "www" / "model.tgz", model)
    digest = package.file_digest(archive)
    download.fetch(f"{server.url}/model.tgz#sha256={digest}", target)
    assert same(target, model)
    with pytest.raises(ValueError, match=r"model\.tgz has changed since it was saved"):
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
        ("/nowhere/at/all", "no model at '/nowhere/at/all'"),
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
        with pytest.raises(ValueError, match=r"weights\.safetensors has changed since it was"):
            download.fetch(source, target)
    assert same(target, tmp_path / "before")
    assert alone(target) == ["model"]


def test_a_path_or_link_in_an_archive_leads_nowhere(model, target, tmp_path):
    for name, kind, said in (
        ("../model.json", tarfile.REGTYPE, "model.json does not describe"),
        (MODEL, tarfile.SYMTYPE, "holds no packaged model"),
        (MODEL, tarfile.FIFOTYPE, "holds no packaged model"),
    ):
        with tarfile.open(tmp_path / "evil.tar", "w") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        with pytest.raises(ValueError, match=rf"evil\.tar.*{said}"):
            download.fetch(str(tmp_path / "evil.tar"), target)
    assert alone(target) == []
    assert not (target.parent.parent / MODEL).exists()


def test_a_model_that_a_killed_pull_had_moved_away_is_put_back(model, target):
    download.fetch(str(model), target)
    target.rename(target.with_name(".model.old"))
    (model / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"weights\.safetensors cannot be read"):
        download.fetch(str(model), target)
    assert sorted(path.name for path in target.iterdir()) == sorted([CARD, MODEL, WEIGHTS])
    assert alone(target) == ["model"]


@pytest.mark.parametrize("limit", ["MAX_ARCHIVE", "MAX_MEMBERS"])
def test_a_tar_is_measured_before_it_is_read(model, target, tmp_path, limit, monkeypatch):
    monkeypatch.setattr(download, limit, 2)
    with pytest.raises(ValueError, match=r"cannot be read: it claims more than"):
        download.fetch(str(pack(tmp_path / "m.tar.gz", model)), target)
    assert alone(target) == []


@pytest.mark.parametrize("name", [MODEL, CARD])
@pytest.mark.parametrize("source", ["{model}", "{url}/model", "{zip}"])
def test_a_text_that_is_too_large_is_refused(
    model, target, server, tmp_path, name, source, monkeypatch
):
    monkeypatch.setattr(download, "MAX_TEXT", (model / MODEL).stat().st_size)
    (model / name).write_bytes(b" " * 20_000)
    packed = pack(tmp_path / "m.zip", model)
    with pytest.raises(ValueError, match=rf"{name} has more than the \d+"):
        download.fetch(source.format(model=model, url=server.url, zip=packed), target)


@pytest.mark.parametrize("source", ["{model}", "{url}/model"])
def test_weights_larger_than_model_json_says_are_not_downloaded(model, target, server, source):
    with (model / WEIGHTS).open("ab") as file:
        file.write(bytes(1000))
    with pytest.raises(ValueError, match=r"weights\.safetensors has more than the \d+"):
        download.fetch(source.format(model=model, url=server.url), target)
    assert alone(target) == []


def test_a_pull_says_what_it_brought_and_how_to_pin_it(model, target, server, capsys):
    assert main(["pull", str(target), "--from", str(model)]) == 0
    said = capsys.readouterr().out
    for line in ("pulling ", "pulled one into", "Scores: KL 0.250", "weights: CC0"):
        assert line in said
    assert "##" not in said
    (digest,) = re.findall("--sha256 ([0-9a-f]{64})", said)
    assert digest == package.file_digest(model / MODEL)
    for source in (str(model), f"{server.url}/model"):
        assert main(["pull", str(target), "--from", source, "--sha256", digest]) == 0
        assert main(["pull", str(target), "--from", source, "--sha256", "0" * 64]) == 1
        assert "model.json has changed since it was saved" in capsys.readouterr().err
    assert main(["pull", str(target), "--from", source, "--sha256", "12"]) == 1
    assert "64 hexadecimal digits" in capsys.readouterr().err
    assert main(["pull", str(target), "--from", str(model), "--alias", "champion"]) == 1
    assert "pass only one of --alias" in capsys.readouterr().err


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
        with pytest.raises(ValueError, match=f"{name} (cannot be read|holds no packaged)"):
            download.fetch(str(tmp_path / name), target)


def test_a_full_disk_is_not_blamed_on_the_source(model, target, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_write", full)
    with pytest.raises(OSError, match="No space left") as error:
        download.fetch(str(model), target)
    assert not isinstance(error.value, ValueError)


def test_a_password_in_an_address_is_sent_but_not_shown(target, server):
    url = f"{server.url}/none.tar".replace("://", "://me:secret@")
    with pytest.raises(ValueError, match="cannot be fetched") as error:
        download.fetch(url, target)
    assert "secret" not in str(error.value)
    assert server.logins == ["Basic bWU6c2VjcmV0"]
