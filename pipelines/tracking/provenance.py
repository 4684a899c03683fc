"""The provenance of a run, for its MLflow tags: commit, machines and data."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import ray
import torch

from emlnet.public_url import public_url
from shards.files.manifest import Manifest

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

COMMIT = "EMLNET_COMMIT"
"""Environment variable with the commit of a job's code, which has no git history."""
DIGEST_LENGTH = 36
"""Characters of a data set's digest that MLflow keeps."""


def git_commit() -> str | None:
    """Return the commit, with `-dirty` if files differ from it; None outside a checkout."""
    if os.environ.get(COMMIT):
        return os.environ[COMMIT]
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(
            command,
            cwd=Path(__file__).parents[2],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip() or None


def code_tags() -> dict[str, str]:
    """Return tags for the commit and whether files differ from it; empty outside a checkout."""
    commit = git_commit()
    if commit is None:
        return {}
    clean = commit.removesuffix("-dirty")
    return {"mlflow.source.git.commit": clean, "git_dirty": str(clean != commit)}


def host_kind() -> str:
    """Describe the machines of a run: the Ray cluster, else this machine."""
    if ray.is_initialized():
        resources = ray.cluster_resources()
        num_nodes = sum(node["Alive"] for node in ray.nodes())
        num_cpus, num_gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        kinds = [n.removeprefix("accelerator_type:") for n in resources if "accelerator_type:" in n]
    else:
        num_nodes, num_cpus = 1, os.cpu_count() or 1
        num_gpus = torch.cuda.device_count()
        kinds = [torch.cuda.get_device_name(0)] if num_gpus else []
    nodes = f"{num_nodes} nodes, " if num_nodes > 1 else ""
    gpus = f", {num_gpus} GPU {' '.join(kinds)}".rstrip() if num_gpus else ""
    return f"{nodes}{num_cpus} CPU{gpus}, {platform.system()} {platform.machine()}"


def data_tags(stage: str, manifest: Manifest) -> dict[str, str]:
    """Return the tags for a run's stage and data."""
    edition = {"data_edition": manifest.edition} if manifest.edition else {}
    return {"stage": stage, "data": manifest.name, "data_digest": manifest.digest, **edition}


def dataset_input(folder: Path | str, manifest: Manifest) -> DatasetInput:
    """Describe a folder of shards as an MLflow dataset: name, digest, source, columns, counts."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    counts = {f"{name} pictures": len(split.samples) for name, split in manifest.splits.items()}
    fixations = sum(e.num_fixations for split in manifest.splits.values() for e in split.samples)
    columns = [
        {"name": name, "type": kind, "required": True}
        for name, kind in (("image", "binary"), ("fixations", "long"), ("density", "binary"))
    ]
    dataset = Dataset(
        name=manifest.name,
        digest=manifest.digest[:DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": public_url(folder)}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({**counts, "fixations": fixations}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", ", ".join(manifest.splits))])
