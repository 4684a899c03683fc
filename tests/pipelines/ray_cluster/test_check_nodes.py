"""Nodes that do not see a file are named."""

from pathlib import Path

from pipelines.ray_cluster.check_nodes import describe_missing, find_missing


def test_a_path_that_a_node_does_not_see_is_named_a_local_folder_first(tmp_path: Path) -> None:
    assert find_missing([str(tmp_path), "/nowhere"]) == ["/nowhere"]
    probe = "/run/.probe-1"
    problem = describe_missing("10.0.0.2", ["/data", probe], [probe])
    assert "wrote into /run is not seen on the node 10.0.0.2: it is a local folder" in problem
    problem = describe_missing("10.0.0.1", ["/data"], [probe])
    assert problem.startswith("/data is not seen on the node 10.0.0.1; put it where all nodes")
