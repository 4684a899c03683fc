"""The same `full` on a cluster of two nodes, simulated on one machine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from emlnet.training import checkpoint
from pipelines.config.options import Compute, Tracking
from pipelines.config.presets import find_preset
from pipelines.stages import full

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def address() -> Iterator[str]:
    """A head without CPUs and two nodes of one CPU each."""
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


def test_full_runs_with_two_workers_on_two_nodes(address: str, raw: Path, tmp_path: Path) -> None:
    tracking = Tracking(out=tmp_path / "run", tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    compute = Compute(num_workers=2, address=address)
    report = full.run(
        replace(find_preset("smoke"), data=(raw,), tracking=tracking, compute=compute)
    )
    assert len([node for node in ray.nodes() if node["Alive"]]) == 3
    for stage in ("encoder-0-tiny", "decoder"):
        folder = sorted((tmp_path / "run" / stage / "training").glob("checkpoint_2*"))[-1]
        # Each of the ranks left its own random state.
        assert len(checkpoint.read(folder)["random"]) == 2
    assert report["version"] == 1
    assert {"decoder", "encoder tiny"} <= set(report["scores"])
