"""What is said of nodes that lack or do not see something."""

from pathlib import Path

from pipelines.ray_cluster import check_nodes

PROBE = Path("/run/.probe-1")


def test_nodes_that_see_and_have_all_are_fine() -> None:
    assert check_nodes.judge({"10.0.0.1": ([], []), "10.0.0.2": ([], [])}, [PROBE]) == ""


def test_a_folder_that_only_one_node_has_is_called_local() -> None:
    problem = check_nodes.judge(
        {"10.0.0.1": ([], []), "10.0.0.2": (["/data", str(PROBE)], [])}, [PROBE]
    )
    assert problem.startswith("a file that this process wrote into /run is not seen on 1 of 2 nod")
    assert "(first: 10.0.0.2)" in problem


def test_data_that_a_node_does_not_see_is_named() -> None:
    problem = check_nodes.judge({"10.0.0.1": (["/data"], []), "10.0.0.2": (["/data"], [])}, [PROBE])
    assert problem.startswith("/data is not seen on 2 of 2 nodes (first: 10.0.0.1)")


def test_a_package_that_a_node_lacks_is_named() -> None:
    problem = check_nodes.judge(
        {"10.0.0.1": ([], []), "10.0.0.2": ([], ["timm (not installed)"])}, [PROBE]
    )
    assert problem.startswith("1 of 2 nodes lack packages (first: 10.0.0.2, timm (not installed))")


def test_a_look_finds_what_is_not_there(tmp_path: Path) -> None:
    unseen, lacking = check_nodes.look([str(tmp_path), "/nowhere"], ["numpy", "no-such-thing>=2"])
    assert unseen == ["/nowhere"]
    assert lacking == ["no-such-thing>=2 (not installed)"]
