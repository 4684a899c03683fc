"""Brings a packaged model into a folder: from a folder, an archive, or over http(s).

Nothing is unpickled, no name of a file comes from the source, every file is checked against the
digest that model.json names, and the folder gets the whole model or keeps what it had.  What a
broken download has brought is kept beside the folder, and the next try goes on from there.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from emlnet.inference.package import FILES, MODEL, WEIGHTS, check_target, file_digest, read_files

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
HEX = re.compile("[0-9a-fA-F]{64}")
TRIES = 5
"""Attempts at one download; each goes on where the one before broke off."""
MAX_DESCRIPTION = 16 * 2**20
"""Bytes of the largest model.json, or card, that is read."""

Get = Callable[[str, Path], None]
"""Brings the package's file of that name to a path."""


class BrokenDownloadError(ValueError):
    """A download that broke off; what it brought is kept for the next try."""


def is_source(text: str) -> bool:
    """Whether a text names a folder, an archive or a URL that `fetch` takes."""
    local = bool(text) and Path(text).expanduser().exists()
    return local or text.startswith(("http://", "https://"))


def fetch(source: str, folder: Path) -> Path:
    """Fetches a packaged model into a folder of its own and returns it.

    source: a folder, an archive (.tar, .tar.gz, .tgz, .zip), or the http(s) address of either; an
    archive may be followed by `#sha256=HEX`.  The folder must be new, empty, or hold an
    earlier pull.  Raises ValueError when the source holds no model, or a file is not what was
    saved, BrokenDownloadError when the network ended it.
    """
    source, mark, digest = source.partition("#sha256=")
    is_remote = source.startswith(("http://", "https://"))
    address = urllib.parse.urlsplit(source if is_remote else "")
    local = Path(source).expanduser()
    is_archive = (is_remote or local.is_file()) and (address.path or source).endswith(ARCHIVES)
    if address.fragment or (mark and not (is_archive and HEX.fullmatch(digest))):
        raise ValueError(
            f"#{address.fragment or 'sha256=' + digest} after {_public(source)} says nothing: "
            f"#sha256= and 64 hexadecimal digits come after an archive ({', '.join(ARCHIVES)}); "
            "a folder's files are checked against its model.json"
        )
    if is_remote and is_archive:
        return assemble(folder, lambda part: _from_remote_archive(source, digest, part), source)
    if is_remote:
        base = source.removesuffix(MODEL).rstrip("/")
        return assemble(folder, lambda part: _over_http(base, part), source)
    if (local / MODEL).is_file():
        return assemble(folder, lambda _: lambda name, to: _copy(local / name, to), source)
    if is_archive:
        _check_digest(local, digest, source)
        return assemble(folder, lambda part: _from_archive(local, part), source)
    raise ValueError(
        f"no model at {source}: give a folder with {MODEL}, an archive ({', '.join(ARCHIVES)}) or "
        "the address of either"
    )


def assemble(folder: Path, opened: Callable[[Path], Get], source: str) -> Path:
    """Brings a package's files together beside `folder`, checks them, and puts them in its place.

    opened: called with the scratch folder, which outlives a broken download, gives what brings
    files.  source: what an error calls it.
    """
    check_target(folder)
    folder = folder.absolute()
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    whole = part / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    try:
        get = opened(part)
        get(MODEL, whole / MODEL)
        for name, digest in read_files(whole).items():
            kept = part / f"{name}-{digest[:16]}"
            if not kept.is_file():
                get(name, kept)
            _check_digest(kept, digest, f"{source}: {name}")
            kept.replace(whole / name)
    except BrokenDownloadError:
        raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if folder.exists():
        folder.replace(part / "old")
    whole.replace(folder)
    shutil.rmtree(part, ignore_errors=True)
    return folder


def _check_digest(path: Path, digest: str, name: str) -> None:
    if digest and file_digest(path) != digest.lower():
        raise ValueError(f"{name} is not the file that was saved: its SHA-256 is not {digest}")


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise ValueError(f"{source} cannot be read: {error.strerror}") from error


def _over_http(base: str, part: Path) -> Get:
    address = urllib.parse.urlsplit(base)
    root = address.path.rstrip("/")

    def get(name: str, target: Path) -> None:
        url = urllib.parse.urlunsplit(address._replace(path=f"{root}/{name}"))
        partial = part / f"{target.name}.partial"
        if name == MODEL:  # Small, and it says what the others must be: never from an earlier try.
            partial.unlink(missing_ok=True)
        download(url, partial)
        partial.replace(target)

    return get


def _from_remote_archive(url: str, digest: str, part: Path) -> Get:
    name = Path(urllib.parse.urlsplit(url).path).name
    archive = part / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    download(url, archive)
    _check_digest(archive, digest, _public(url))
    return _from_archive(archive, part)


def _from_archive(archive: Path, part: Path) -> Get:
    """Unpacks the package's files, those known by name alone, at the top or one folder down."""
    folder = part / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        for name, file, size in _members(archive):
            if name != WEIGHTS and size > MAX_DESCRIPTION:
                raise ValueError(f"{name} claims {size} bytes")
            with (folder / name).open("xb") as target:
                shutil.copyfileobj(file, target)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{archive.name} cannot be unpacked: {error}") from error
    if not (folder / MODEL).is_file():
        raise ValueError(f"{archive.name} holds no packaged model ({MODEL} is missing)")
    return lambda name, target: _copy(folder / name, target)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes], int]]:
    """Name, content and size of the regular files of an archive that a package can hold."""
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                *above, name = entry.filename.split("/")
                if name in FILES and len(above) <= 1:
                    with opened.open(entry) as file:
                        yield name, file, entry.file_size
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            *above, name = member.name.removeprefix("./").split("/")
            content = tar.extractfile(member) if member.isreg() else None
            if content and name in FILES and len(above) <= 1:
                yield name, content, member.size


def download(url: str, path: Path) -> None:
    """Downloads to a path, on from the bytes that are there.

    Raises ValueError when the server says no, BrokenDownloadError when the network broke off too
    often; what came by then stays.
    """
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(min(2**attempt / 4, 4))
        try:
            _download_once(url, path)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise ValueError(f"{_public(url)} cannot be fetched: HTTP {error.code}") from None
            reason = f"HTTP {error.code}"
        except (OSError, EOFError) as error:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
    raise BrokenDownloadError(
        f"{_public(url)} broke off after {path.stat().st_size if path.exists() else 0} bytes: "
        f"{reason}; the same command goes on from there"
    )


def _download_once(url: str, path: Path) -> None:
    start = path.stat().st_size if path.exists() else 0
    headers = {"User-Agent": "emlnet", **({"Range": f"bytes={start}-"} if start else {})}
    request = urllib.request.Request(_public(url), headers=headers)
    user = urllib.parse.urlsplit(url)
    if user.username:
        login = f"{urllib.parse.unquote(user.username)}:{urllib.parse.unquote(user.password or '')}"
        encoded = base64.b64encode(login.encode()).decode()
        # To this server alone, not to one that it sends us on to.
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing is left to send: the file is whole, or not the one that was begun.
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return
        path.unlink()
        raise EOFError("the file changed on the server") from error
    with answer:
        goes_on = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        expected = (start if goes_on else 0) + int(answer.headers.get("Content-Length") or 0)
        with (
            path.open("ab" if goes_on else "wb") as file,
            contextlib.closing(Progress(url)) as show,
        ):
            while block := answer.read(2**20):
                file.write(block)
                show.add(file.tell(), expected)
    if path.stat().st_size < expected:
        raise EOFError(f"{path.stat().st_size} of {expected} bytes came")


class Progress:
    """A line on a terminal that says how much has come; silent elsewhere."""

    def __init__(self, url: str) -> None:
        self.name = Path(urllib.parse.urlsplit(url).path).name
        self.shown = 0.0

    def add(self, have: int, of: int) -> None:
        """Shows how many bytes there are, twice a second."""
        if sys.stderr.isatty() and time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            total = f" of {of / 1e6:.1f}" if of else ""
            print(f"\r{self.name}: {have / 1e6:.1f}{total} MB", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the line."""
        if self.shown:
            print(file=sys.stderr)


def _public(url: str) -> str:
    """A URL without the password that it may hold."""
    address = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))
