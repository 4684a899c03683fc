"""A small synthetic data set, packed once, and a Ray of this machine."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from pipelines.config.options import Compute
from pipelines.ray_cluster import check_nodes, connection, tasks
from shards.build.writer import build
from shards.synthetic import write_sample


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen synthetic pictures in SALICON's layout, 12 train and 3 val."""
    folder = tmp_path_factory.mktemp("raw") / "pictures"
    write_sample(folder, num_images=15, seed=3, progress=False)
    return folder


@pytest.fixture(scope="session")
def data(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, as shards."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    build(raw, folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Ray on this machine, for the tests of one file."""
    connection.connect(Compute())
    yield
    ray.shutdown()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray tasks as plain calls in this process, one after another."""

    def map_parts(
        function: Callable[..., Any], parts: Sequence[list[int]], *shared: Any, **options: Any
    ) -> list[Any]:
        return [function(part, torch.device("cpu"), *shared) for part in parts]

    monkeypatch.setattr(tasks, "map_parts", map_parts)
    monkeypatch.setattr(connection, "connect", lambda compute: None)
    monkeypatch.setattr(check_nodes, "check", lambda *given: None)
