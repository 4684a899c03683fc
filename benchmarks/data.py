"""The pictures that benchmarks read: OSIE if it is there, else synthetic ones of the same size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.result_table import ROOT
from shards.build.writer import build
from shards.synthetic import write_sample


@contextmanager
def pictures(num_synthetic: int = 64) -> Iterator[tuple[Path, Path]]:
    """Yield a folder in SALICON's layout, 480 x 640, and the same pictures packed into shards.

    The first is EMLNET_OSIE (../shared/data/osie), or else synthetic.  The shards are deleted at
    the end.
    """
    with TemporaryDirectory(prefix="benchmarks-") as folder:
        raw = Path(os.environ.get("EMLNET_OSIE", ROOT.parent / "shared" / "data" / "osie"))
        if not (raw / "images").is_dir():
            raw = Path(folder) / "synthetic"
            write_sample(raw, num_images=num_synthetic, progress=False)
        packed = Path(folder) / "shards"
        build(raw, packed, progress=False)
        yield raw.absolute(), packed
