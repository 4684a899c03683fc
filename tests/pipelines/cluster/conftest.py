"""What fault tests share: one cluster of several nodes, and one training without a fault."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from pipelines.config.options import Compute
from pipelines.ray_cluster import connection
from pipelines.ray_train import trainer
from tests.pipelines.cluster.faults import PAIR, make_job


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last checkpoint of `make_job` that two workers trained without a fault."""
    connection.connect(Compute())
    folder = tmp_path_factory.mktemp("undisturbed")
    return trainer.train(make_job(data, folder), folder / "training", PAIR)


@pytest.fixture(scope="module")
def cluster(undisturbed: dict[str, Any]) -> Iterator[Cluster]:
    """A head without CPUs, which this process has joined."""
    ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    connection.connect(Compute(address=made.address))
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[list[Any]]:
    """Two nodes of one CPU each; others that a test adds go with them."""
    yield [cluster.add_node(num_cpus=1) for _ in range(2)]
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)
