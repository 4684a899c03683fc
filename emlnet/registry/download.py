"""Fetch a packaged model into a folder: from a folder, an archive, or over http(s).

Sources are not trusted: nothing is unpickled, no file name comes from them, sizes are limited, and
every file is checked against the digest that model.json names.
"""

from __future__ import annotations

import gzip
import http.client
import re
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from tqdm import tqdm

from emlnet.atomic_files import replace_folder
from emlnet.inference.package import (
    MAX_TEXT,
    MAX_WEIGHTS,
    MODEL,
    WEIGHTS,
    check_target,
    file_digest,
    parse_description,
)
from emlnet.public_url import public_url

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_ARCHIVE = MAX_WEIGHTS + 2 * MAX_TEXT
"""Bytes of an archive, and of all that it claims to hold."""
MAX_MEMBERS = 1000
HEX = re.compile("[0-9a-fA-F]{64}")
BLOCK = 2**20

Get = Callable[[str, Path, int], None]
"""Writes the package's file of that name to a path; ValueError where it exceeds so many bytes."""


class BrokenDownloadError(ValueError):
    """A download that the network ended, and that may succeed when it is tried again."""


def is_source(text: str) -> bool:
    """Whether a text names a folder, an archive or a URL that `fetch` takes."""
    local = bool(text) and Path(text).expanduser().exists()
    return local or text.startswith(("http://", "https://"))


def fetch(source: str, folder: Path, sha256: str | None = None) -> Path:
    """Fetch a packaged model into a folder and return the folder.

    source: a folder, an archive (.tar, .tar.gz, .tgz, .zip), or the http(s) address of either; an
    archive may be followed by `#sha256=HEX`.  folder: new, empty, or an earlier pull.
    sha256: expected of model.json.
    Raises ValueError when the source holds no model, or a file is not what was saved.
    """
    source, mark, digest = source.partition("#sha256=")
    is_remote = source.startswith(("http://", "https://"))
    address = urlsplit(source if is_remote else "")
    local = Path(source).expanduser()
    is_archive = (is_remote or local.is_file()) and (address.path or source).endswith(ARCHIVES)
    if address.fragment or (mark and not (is_archive and HEX.fullmatch(digest))):
        raise ValueError(
            f"#{address.fragment or 'sha256=' + digest} after {public_url(source)} is not used: "
            f"#sha256= and 64 hexadecimal digits come after an archive ({', '.join(ARCHIVES)}); "
            "--sha256 checks the model.json of any source"
        )
    if is_archive:
        with tempfile.TemporaryDirectory() as scratch:
            if is_remote:
                local = Path(scratch) / f"archive{Path(address.path).suffix}"
                _retry(download, source, local, MAX_ARCHIVE)
            _check_digest(local, digest, public_url(source))
            unpacked = _unpack(local, Path(scratch) / "unpacked", public_url(source))
            return assemble(folder, _from_folder(unpacked), public_url(source), sha256)
    if is_remote:
        base = address._replace(path=address.path.removesuffix(MODEL).rstrip("/"))
        return assemble(folder, _over_http(base), public_url(source), sha256)
    if (local / MODEL).is_file():
        return assemble(folder, _from_folder(local), source, sha256)
    raise ValueError(
        f"no model at {source}: give a folder with {MODEL}, an archive ({', '.join(ARCHIVES)}) or "
        "the address of either"
    )


def assemble(folder: Path, get: Get, source: str, sha256: str | None = None) -> Path:
    """Replace a folder by a package whose files `get` brings, each checked; return the folder.

    source: what an error calls it.  sha256: expected of model.json.
    """
    check_target(folder)
    with replace_folder(folder) as new:
        _retry(get, MODEL, new / MODEL, MAX_TEXT)
        _check_digest(new / MODEL, sha256 or "", f"{source}: {MODEL}")
        description = parse_description((new / MODEL).read_bytes(), f"{source}: {MODEL}")
        for name, digest in description.files.items():
            limit = description.sizes.get(name, MAX_WEIGHTS if name == WEIGHTS else MAX_TEXT)
            _retry(get, name, new / name, limit)
            _check_digest(new / name, digest, f"{source}: {name}")
        check_target(folder)
    return folder


def _retry(bring: Callable[[str, Path, int], None], what: str, target: Path, limit: int) -> None:
    """Call `bring`, again after a pause when the network broke it off."""
    for pause in (1, 2, None):
        target.unlink(missing_ok=True)
        try:
            return bring(what, target, limit)
        except BrokenDownloadError:
            if pause is None:
                raise
            time.sleep(pause)


def _check_digest(path: Path, digest: str, name: str) -> None:
    if digest and file_digest(path) != digest.lower():
        raise ValueError(f"{name} is not the file that was saved: its SHA-256 is not {digest}")


def write_blocks(blocks: Iterable[bytes], target: Path, limit: int, name: str) -> int:
    """Write blocks of bytes to a new file and return its length.

    Raises ValueError when they have more than `limit` bytes, BrokenDownloadError when they end in
    an error of their source.
    """
    length = 0
    with target.open("xb") as file:
        for block in _source_errors(blocks, name):
            length += len(block)
            if length > limit:
                raise ValueError(f"{name} has more than the {limit} bytes expected")
            file.write(block)
    return length


def _source_errors(blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    try:
        yield from blocks
    except (OSError, EOFError, http.client.HTTPException) as error:
        raise BrokenDownloadError(f"{name} cannot be read: {_reason(error)}") from error


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    return iter(partial(stream.read, BLOCK), b"")


def _from_folder(folder: Path) -> Get:
    def get(name: str, target: Path, limit: int) -> None:
        try:
            stream = (folder / name).open("rb")
        except OSError as error:
            raise ValueError(f"{folder / name} cannot be read: {_reason(error)}") from error
        with stream:
            write_blocks(_blocks(stream), target, limit, str(folder / name))

    return get


def _over_http(base: Any) -> Get:
    def get(name: str, target: Path, limit: int) -> None:
        download(urlunsplit(base._replace(path=f"{base.path}/{name}")), target, limit)

    return get


def _unpack(archive: Path, into: Path, source: str) -> Path:
    """Unpack an archive after measuring it; return the folder that holds the package.

    That is the top of the archive, or a folder in it.  Links and paths lead nowhere outside.
    """
    into.mkdir()
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as opened:
                _check_sizes(entry.file_size for entry in opened.infolist())
                opened.extractall(into)
        else:
            with tarfile.open(archive, "r:" if archive.suffix == ".tar" else "r:gz") as tar:
                _check_sizes(member.size for member in tar)
                tar.extractall(into, filter="data")
    except (
        tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError, RuntimeError,
        ValueError,
    ) as error:  # fmt: skip
        raise ValueError(f"{source} cannot be unpacked: {error}") from error
    for folder in (into, *into.iterdir()):
        if (folder / MODEL).is_file():
            return folder
    raise ValueError(f"{source} holds no packaged model ({MODEL} is missing)")


def _check_sizes(sizes: Iterable[int]) -> None:
    total = 0
    for number, size in enumerate(sizes, 1):
        total += size
        if total > MAX_ARCHIVE or number > MAX_MEMBERS:
            raise ValueError(f"it claims more than {MAX_ARCHIVE} bytes or {MAX_MEMBERS} files")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects within http(s), but never from https to http."""

    def redirect_request(
        self,
        request: urllib.request.Request,
        file: Any,
        code: int,
        text: str,
        headers: Any,
        to: str,
    ) -> urllib.request.Request | None:
        schemes = (
            ("https://",) if request.full_url.startswith("https://") else ("http://", "https://")
        )
        if not to.startswith(schemes):
            raise ValueError(
                f"{public_url(request.full_url)} redirects to {public_url(to)}, which is not "
                "encrypted; nothing was fetched"
            )
        return super().redirect_request(request, file, code, text, headers, to)


def download(url: str, path: Path, limit: int) -> None:
    """Download a URL to a new file of at most `limit` bytes.

    A user and password in the URL are sent to its own server only.
    Raises ValueError when the server refuses, BrokenDownloadError when the network failed.
    """
    shown, address = public_url(url), urlsplit(url)
    url = urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))
    logins = urllib.request.HTTPPasswordMgrWithPriorAuth()
    if address.username:
        password = unquote(address.password or "")
        logins.add_password(None, url, unquote(address.username), password, is_authenticated=True)
    opener = urllib.request.build_opener(
        urllib.request.HTTPBasicAuthHandler(logins), _SafeRedirects
    )
    try:
        answer = opener.open(url, timeout=30)
    except urllib.error.HTTPError as error:
        kind = BrokenDownloadError if error.code >= 500 or error.code == 429 else ValueError
        raise kind(f"{shown} cannot be fetched: HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise BrokenDownloadError(f"{shown} cannot be fetched: {_reason(error)}") from error
    expected = int(answer.headers.get("Content-Length") or 0)
    if expected > limit:
        raise ValueError(f"{shown} has {expected} bytes, more than the {limit} expected")
    with (
        answer,
        tqdm(
            desc=path.name, total=expected or None, unit="B", unit_scale=True, disable=None
        ) as progress,
    ):

        def read() -> bytes:
            block: bytes = answer.read(BLOCK)
            progress.update(len(block))
            return block

        length = write_blocks(iter(read, b""), path, limit, shown)
    if length < expected:
        raise BrokenDownloadError(f"{shown} broke off after {length} of {expected} bytes")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", "") or getattr(error, "strerror", "") or error
    return str(reason) or type(error).__name__
