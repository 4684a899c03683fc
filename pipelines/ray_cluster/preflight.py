"""Check that this machine has the packages that the code needs, before a job.

Run it as `python -m pipelines.ray_cluster.preflight`.

Imports nothing but the standard library and `packaging`: it must run where the rest cannot.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def wanted(project: Path = PROJECT) -> list[Requirement]:
    """What pyproject.toml asks for to train, in its order; those for other platforms left out."""
    content = tomllib.loads(project.read_text())["project"]
    texts = [*content["dependencies"], *content["optional-dependencies"]["pipeline"]]
    found = [Requirement(text) for text in texts]
    return [r for r in found if r.marker is None or r.marker.evaluate()]


def missing(requirements: list[Requirement]) -> list[str]:
    """Each requirement that is not met here, and what is here in its place."""
    lacking = []
    for requirement in requirements:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            lacking.append(f"{requirement} (not installed)")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            lacking.append(f"{requirement} (has {found})")
    return lacking


def main() -> int:
    """One line on stderr and exit code 1 when something is missing."""
    lacking = missing(wanted())
    if lacking:
        print(
            f"error: the cluster's machines lack {', '.join(lacking)}; build their image from "
            "deploy/Dockerfile, or install the packages there",
            file=sys.stderr,
        )
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
