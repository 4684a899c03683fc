"""What is said of nodes that do not see a file."""

from pathlib import Path

import pytest

from pipelines.ray_cluster import check_nodes

PROBE = Path("/run/.probe-1")


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([], [], ""),
        (
            [],
            ["/data", str(PROBE)],
            "wrote into /run is not seen on 1 of 2 nodes (first: 10.0.0.2)",
        ),
        (["/data"], ["/data"], "/data is not seen on 2 of 2 nodes (first: 10.0.0.1)"),
    ],
    ids=["all seen", "a local folder", "missing data"],
)
def test_a_path_that_a_node_does_not_see_is_named(
    first: list[str], second: list[str], words: str
) -> None:
    missing = {"10.0.0.1": first, "10.0.0.2": second}
    problem = check_nodes.describe_missing(missing, [PROBE])
    assert words in problem
    assert bool(problem) == bool(words)


def test_a_missing_path_is_found(tmp_path: Path) -> None:
    assert check_nodes.find_missing([str(tmp_path), "/nowhere"]) == ["/nowhere"]
