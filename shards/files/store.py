"""A folder of files, on this machine or in an object store, by its path or URL.

`s3://` needs the package s3fs, `gs://` gcsfs; endpoints and credentials come from their usual
environment variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, ...).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import fsspec

from emlnet.atomic_files import replace_file

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
CLIENTS = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google"}
"""Packages whose errors come from a storage server."""


def location(folder: Path | str) -> Path | str:
    """Return an absolute path, or a URL; `s3:/`, as a Path holds it, becomes `s3://` again."""
    scheme, colon, rest = str(folder).partition(":/")
    if colon and scheme in {*PACKAGES, "gcs", "memory"}:
        return f"{scheme}://{rest.lstrip('/')}"
    return Path(folder).expanduser().absolute()


class Store:
    """The files directly in one folder.

    Every method raises OSError naming the file or folder if the storage fails.  Reading a missing
    file raises FileNotFoundError.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = os.path.expanduser(str(folder)).rstrip("/") or "/"  # noqa: PTH111
        self.scheme = self.folder.partition("://")[0] if "://" in self.folder else "file"
        try:
            # A cached listing would hide files that other processes write.
            self.files, root = fsspec.core.url_to_fs(self.folder, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            package = PACKAGES.get(self.scheme)
            way_out = f"pip install {package}" if package else "give a path, s3:// or gs://"
            raise ValueError(f"{self.folder} cannot be reached: {error}; {way_out}") from error
        self.root: str = root.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the folder is in a file system of this machine."""
        return self.scheme == "file"

    @property
    def url(self) -> str:
        """The folder's absolute path or URL, for other processes and machines."""
        return self.root if self.is_local else self.folder

    def place(self, name: str) -> str:
        """Return a file's path or URL, for messages."""
        return f"{self.folder}/{name}"

    def make(self) -> bool:
        """Create the folder if it is local and missing; return whether it is new."""
        is_new = self.is_local and not Path(self.root).is_dir()
        if is_new:
            with self._errors(self.folder):
                Path(self.root).mkdir(parents=True)
        return is_new

    def entries(self) -> dict[str, int | None]:
        """Return the folder's entries, sorted: bytes of each file, None for a folder."""
        with self._errors(self.folder):
            try:
                found = self.files.ls(self.root, detail=True)
            except FileNotFoundError:
                return {}
        entries = {
            entry["name"].rstrip("/").rsplit("/", 1)[-1]: (
                None if entry["type"] == "directory" else int(entry["size"])
            )
            for entry in found
            if entry["name"].rstrip("/") != self.root
        }
        return dict(sorted(entries.items()))

    def find(self) -> list[str]:
        """Return the relative paths of all files below the folder; empty if it is missing."""
        with self._errors(self.folder):
            try:
                found = self.files.find(self.root)
            except FileNotFoundError:
                return []
        return [path.removeprefix(self.root).lstrip("/") for path in found]

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file, by name, sorted; empty if the folder is missing."""
        return {name: size for name, size in self.entries().items() if size is not None}

    def exists(self, name: str) -> bool:
        """Whether the file exists."""
        with self._errors(name):
            return bool(self.files.isfile(f"{self.root}/{name}"))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a file's content, or its bytes from `start` to `end`."""
        with self._errors(name):
            content: bytes = self.files.cat_file(f"{self.root}/{name}", start=start, end=end)
        return content

    def download(self, name: str, path: Path) -> None:
        """Copy a file to this machine."""
        with self._errors(name):
            self.files.get_file(f"{self.root}/{name}", str(path))

    def put(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        with self.writing(name) as file:
            file.write(content)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for writing; it appears under its name when the block ends."""
        with self._errors(name):
            if self.is_local:
                with replace_file(Path(self.root, name)) as path, path.open("wb") as file:
                    yield file
            else:
                with tempfile.NamedTemporaryFile() as temporary:
                    yield temporary.file
                    temporary.flush()
                    self.files.put_file(temporary.name, f"{self.root}/{name}")

    def remove(self, *names: str) -> None:
        """Delete existing files."""
        if names:
            with self._errors(names[0]):
                self.files.rm([f"{self.root}/{name}" for name in names])

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Turn errors of the storage clients into OSErrors naming the file."""
        place = self.folder if name == self.folder else self.place(name)
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{place} is missing") from error
        except OSError as error:
            raise OSError(f"{place}: {error.strerror or error}") from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in CLIENTS:
                raise
            raise OSError(f"{place}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
