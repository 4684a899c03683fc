"""Fetch a packaged model into a folder: from a folder, an archive, or over http(s).

Sources are not trusted: nothing is unpickled or unpacked.  Only a package's three files are read.
Each has a size limit and is checked against its digest in model.json.
"""

from __future__ import annotations

import base64
import http.client
import re
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
"""Size limit of an archive, and of a tar's members together, in bytes."""
MAX_MEMBERS = 1000
HEX = re.compile("[0-9a-fA-F]{64}")

Open = Callable[[str], IO[bytes]]
"""Opens the file of that name; raises its library's errors."""


class BrokenDownloadError(ValueError):
    """An interrupted download, which another attempt may complete."""


class NoModelError(ValueError):
    """A source that is neither a folder with a model, an archive nor a URL."""


def fetch(source: str, folder: Path, sha256: str | None = None) -> Path:
    """Fetch a packaged model into a folder and return the folder.

    source: a folder, an archive (.tar, .tar.gz, .tgz, .zip), or the http(s) address of either; an
    archive may be followed by `#sha256=HEX`.  folder: new, empty, or an earlier pull.
    sha256: expected digest of model.json.
    Raises ValueError if the source holds no model or a file has another digest.
    """
    source, mark, digest = source.partition("#sha256=")
    is_remote = source.startswith(("http://", "https://"))
    address = urlsplit(source if is_remote else "")
    local, shown = Path(source).expanduser(), public_url(source)
    is_archive = (is_remote or local.is_file()) and (address.path or source).endswith(ARCHIVES)
    if address.fragment or (mark and not (is_archive and HEX.fullmatch(digest))):
        raise ValueError(
            f"#{address.fragment or 'sha256=' + digest} after {shown} is not used: "
            f"#sha256= and 64 hexadecimal digits come after an archive ({', '.join(ARCHIVES)}); "
            "--sha256 checks the model.json of any source"
        )
    if is_archive:
        with tempfile.TemporaryDirectory() as scratch:
            if is_remote:
                local = Path(scratch) / f"archive{Path(address.path).suffix}"
                _copy(open_url, source, local, MAX_ARCHIVE, shown)
            _check_digest(local, digest, shown)
            with _open_archive(local, shown) as open_file:
                return assemble(folder, open_file, shown, sha256)
    if is_remote:
        base = address.path.removesuffix(MODEL).rstrip("/")

        def open_remote(name: str) -> IO[bytes]:
            return open_url(urlunsplit(address._replace(path=f"{base}/{name}")))

        return assemble(folder, open_remote, shown, sha256)
    if (local / MODEL).is_file():
        return assemble(folder, lambda name: (local / name).open("rb"), shown, sha256)
    raise NoModelError(
        f"no model at {source!r}: name a folder with {MODEL}, an archive ({', '.join(ARCHIVES)}), "
        "the address of either"
    )


def assemble(folder: Path, open_file: Open, source: str, sha256: str | None = None) -> Path:
    """Replace a folder by a package that `open_file` reads; check each file; return the folder.

    source: its name in error messages.  sha256: expected digest of model.json.
    """
    check_target(folder)
    with replace_folder(folder) as new:
        shown = f"{source}: {MODEL}"
        _copy(open_file, MODEL, new / MODEL, MAX_TEXT, shown)
        _check_digest(new / MODEL, sha256 or "", shown)
        description = parse_description((new / MODEL).read_bytes(), shown)
        for name, digest in description.files.items():
            maximum = MAX_WEIGHTS if name == WEIGHTS else MAX_TEXT
            limit = min(maximum, description.sizes.get(name, maximum))
            _copy(open_file, name, new / name, limit, f"{source}: {name}")
            _check_digest(new / name, digest, f"{source}: {name}")
        check_target(folder)
    return folder


def _check_digest(path: Path, digest: str, name: str) -> None:
    if digest and file_digest(path) != digest.lower():
        raise ValueError(f"{name} has changed since it was saved: its SHA-256 is not {digest}")


def _copy(open_file: Open, name: str, target: Path, limit: int, shown: str) -> None:
    """Copy a file of a source to `target`, in up to three attempts if the network fails.

    limit: largest number of bytes.  shown: its name in error messages.
    """
    for pause in (1, 2, None):
        try:
            try:
                stream = open_file(name)
            except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
                raise ValueError(f"{shown} cannot be read: {_reason(error)}") from error
            with stream:
                return _write(stream, target, limit, shown)
        except BrokenDownloadError:
            if pause is None:
                raise
            time.sleep(pause)


def _write(stream: IO[bytes], target: Path, limit: int, shown: str) -> None:
    """Write a stream to a file, with a progress bar on a terminal.

    Raises ValueError for more than `limit` bytes, BrokenDownloadError if the stream breaks off.
    """
    expected, length = getattr(stream, "length", None) or 0, 0
    with (
        target.open("wb") as file,
        tqdm.wrapattr(
            stream, "read", total=expected or None, desc=target.name, disable=None
        ) as source,
    ):
        while block := _read(source, shown):
            length += len(block)
            if max(length, expected) > limit:
                raise ValueError(f"{shown} has more than the {limit} bytes expected")
            file.write(block)
    if length < expected:
        raise BrokenDownloadError(f"{shown} broke off after {length} of {expected} bytes")


def _read(stream: Any, shown: str) -> bytes:
    try:
        block: bytes = stream.read(2**20)
    except Exception as error:  # Each stream library raises its own errors.
        raise BrokenDownloadError(f"{shown} cannot be read: {_reason(error)}") from error
    return block


@contextmanager
def _open_archive(path: Path, shown: str) -> Iterator[Open]:
    """Yield a function that opens a package's files, at the top of an archive or in one folder."""
    with ExitStack() as stack:
        try:
            if path.suffix == ".zip":
                archive: Any = stack.enter_context(zipfile.ZipFile(path))
                members: dict[str, Any] = archive.NameToInfo
                open_member = archive.open
            else:
                archive = stack.enter_context(tarfile.open(path))
                members, open_member = _files(archive), archive.extractfile
        except Exception as error:  # A damaged archive raises errors of many kinds.
            raise ValueError(f"{shown} cannot be read: {error}") from error
        found = [name for name in members if re.fullmatch(rf"(\./)?([^/]+/)?{MODEL}", name)]
        if not found:
            raise ValueError(f"{shown} holds no packaged model ({MODEL} is missing)")
        top = found[0].removesuffix(MODEL)
        yield lambda name: open_member(members[top + name])


def _files(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """Return the regular files of a tar by name.

    Raises ValueError before it decompresses more than the limits.
    """
    total, members = 0, []
    for member in tar:
        total += member.size
        members.append(member)
        if total > MAX_ARCHIVE or len(members) > MAX_MEMBERS:
            raise ValueError(f"it claims more than {MAX_ARCHIVE} bytes or {MAX_MEMBERS} files")
    return {member.name: member for member in members if member.isfile()}


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects within http(s), but never from https to http."""

    def redirect_request(self, request: Any, file: Any, code: Any, *rest: Any) -> Any:
        *_, to = rest
        if not to.startswith(("https://", request.full_url.partition("//")[0] + "//")):
            raise ValueError(
                f"{public_url(request.full_url)} redirects to {public_url(to)}, which is not "
                "encrypted; nothing was fetched"
            )
        return super().redirect_request(request, file, code, *rest)


def open_url(url: str) -> IO[bytes]:
    """Open an http(s) address; its user and password are sent only to its own server.

    Raises ValueError if the server refuses, BrokenDownloadError if the network fails.
    """
    shown, address = public_url(url), urlsplit(url)
    request = urllib.request.Request(
        urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))
    )
    if address.username:
        login = f"{unquote(address.username)}:{unquote(address.password or '')}".encode()
        # An unredirected header is not sent again after a redirect.
        request.add_unredirected_header(
            "Authorization", f"Basic {base64.b64encode(login).decode()}"
        )
    try:
        answer: IO[bytes] = urllib.request.build_opener(_SafeRedirects).open(request, timeout=30)
    except urllib.error.HTTPError as error:
        kind = BrokenDownloadError if error.code >= 500 or error.code == 429 else ValueError
        raise kind(f"{shown} cannot be fetched: HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise BrokenDownloadError(f"{shown} cannot be fetched: {_reason(error)}") from error
    return answer


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", "") or getattr(error, "strerror", "") or error
    return str(reason) or type(error).__name__
