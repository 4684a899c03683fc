"""A tiny data set in SALICON's true on-disk format, traps included."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import s3fs
import scipy.io
from PIL import Image

from shards.build.build_options import BuildOptions
from shards.build.writer import build
from tests.shards.s3 import Server

SIZE = (30, 40)


def encode_picture(size: tuple[int, int] = SIZE, kind: str = "JPEG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def encode_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def encode_mat(observers: Sequence[object], size: tuple[int, int] = SIZE, name: str = "x") -> bytes:
    """A .mat as SALICON has it; one array of one-based (x, y) per observer."""
    fields = [("location", object), ("timestamp", object), ("fixations", object)]
    gaze = np.empty((len(observers), 1), fields)
    for row, fixations in enumerate(observers):
        gaze[row, 0] = (np.zeros((3, 2)), np.zeros((3, 1)), np.asarray(fixations))
    file = io.BytesIO()
    content = {"image": name, "resolution": np.array([size], np.uint16), "gaze": gaze}
    scipy.io.savemat(file, content)
    return file.getvalue()


@dataclass(frozen=True)
class Raw:
    """A raw folder that a test fills."""

    path: Path

    def put(self, file: str, content: bytes) -> Path:
        path = self.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def add(
        self,
        stem: str,
        observers: Sequence[object] = ([[1, 1], [40, 30]], [[3, 4]]),
        size: tuple[int, int] = SIZE,
        seed: int = 0,
    ) -> None:
        """Three files of one sample; `stem` holds the split: `train/a`."""
        self.put(f"images/{stem}.jpg", encode_picture(size, seed=seed))
        self.put(f"fixations/{stem}.mat", encode_mat(observers, size))
        noise = np.random.default_rng(seed).integers(1, 256, size, dtype=np.uint8)
        self.put(f"maps/{stem}.png", encode_png(noise))


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    """An empty raw folder."""
    return Raw(tmp_path / "raw")


def fill(raw: Raw) -> Raw:
    """Add seven samples in train and two in val, with gaze of every shape and type."""
    for index in range(7):
        empty = np.empty([(0, 2), (0, 0), (1, 0)][index % 3])
        kind = ["float64", "uint16", "uint8"][index % 3]
        points = np.array([[1 + index, 1], [40, 30 - index]], kind)
        raw.add(f"train/t{index}", [points, empty, points[:1]], seed=index)
    for index in range(2):
        raw.add(f"val/v{index}", seed=100 + index)
    return raw


@pytest.fixture
def tiny(raw: Raw) -> Raw:
    """The tiny data set as a raw folder."""
    return fill(raw)


@pytest.fixture(scope="session")
def packed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    pack_tiny(fill(Raw(folder / "raw")), folder / "packed")
    return folder / "packed"


@pytest.fixture
def packed(packed_once: Path, tmp_path: Path) -> Path:
    """The tiny data set in shards of three samples."""
    return shutil.copytree(packed_once, tmp_path / "packed")


@pytest.fixture
def change_byte() -> Callable[[Path, int], None]:
    """Flips the bits of one byte of a file."""

    def change(path: Path, position: int) -> None:
        content = bytearray(path.read_bytes())
        content[position] ^= 0xFF
        path.write_bytes(content)

    return change


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """An S3-protocol server on loopback, to which `s3://` leads as long as the tests run."""
    server = Server()
    server.thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server
    server.server.shutdown()
    server.thread.join()


@pytest.fixture
def s3(s3_server: Server) -> Iterator[Server]:
    """The server, with an empty bucket named `tests`: `s3://tests/...`."""
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.mkdir("tests")
    yield s3_server
    s3_server.open()
    files.invalidate_cache()
    files.rm("tests", recursive=True)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pack(source, out, map_=map, **options):
    return build(source, out, BuildOptions(**options), map_=map_, progress=False)


def pack_tiny(tiny, out, **options):
    return pack(tiny.path, out, **{"shard_size": 3, **options})
