"""The context that the stages of a run share: folder, data, MLflow experiment and cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emlnet.inference import package
from pipelines.config.identity import digest, slug
from pipelines.config.options import Compute, TrainingCommand
from pipelines.ray_cluster import check_nodes, connection, sizing
from pipelines.tracking import run_folder
from pipelines.tracking.mlflow_runs import Tracker
from shards.files.manifest import Manifest
from shards.files.store import location
from shards.read.order import check_mix

NOT_IDENTITY = ("tracking", "compute", "data", "readouts", "preset")
"""Fields of a command that do not change its result: where it runs, reads and writes."""


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The context that the stages of a run share.

    folder: the run's folder, absolute.  data: absolute folders or URLs of shards.  manifest: the
    joined manifest of all data sets.  parent: id of the parent MLflow run.  preset: the command's
    preset; empty without one.
    """

    folder: Path
    data: tuple[Path | str, ...]
    manifest: Manifest
    tracker: Tracker
    compute: Compute
    parent: str | None = None
    preset: str = ""


def start_run(
    command: TrainingCommand, kind: str, name: str, weights: Sequence[str] = ()
) -> RunContext:
    """Connect to Ray and open the run of a command that trains a single stage.

    kind: `encoder` or `decoder`.  name: part of the default folder's name.  weights: the starting
    weights as the command names them.
    """
    connect_and_check(command)
    data = tuple(location(given) for given in command.data)
    manifest = Manifest.join([Manifest.load(folder) for folder in data])
    identity = identify(command, weights, command=kind, data=manifest.digest)
    folder = open_run_folder(command.tracking.out, f"{kind}-{name}", identity)
    return open_context(command, folder, data)


def connect_and_check(command: TrainingCommand, *decoder_batches: int) -> None:
    """Connect to Ray; raise ValueError for options that would fail in a later stage."""
    connection.connect(command.compute)
    for batch_size in (command.plan.batch_size, *decoder_batches):
        sizing.check_batch(batch_size, command.compute)
    if command.mix:
        check_mix(command.data, command.mix)


def open_context(
    command: TrainingCommand, folder: Path, data: tuple[Path | str, ...]
) -> RunContext:
    """Open the MLflow experiment of a run; return the context.

    folder: from `open_run_folder`.  data: folders of shards or URLs.
    """
    check_nodes.check(data, folder, command.compute.storage_folder)
    manifest = Manifest.join([Manifest.load(folder) for folder in data])
    return RunContext(
        folder=folder,
        data=data,
        manifest=manifest,
        tracker=Tracker.open(command.tracking.uri, command.tracking.experiment or manifest.name),
        compute=command.compute,
        preset=command.preset,
    )


def identify(config: Any, weights: Sequence[str], **parts: str) -> dict[str, str]:
    """Return the identity of a run: a command with the same one resumes it.

    config: the command's dataclass.  weights: the starting weights as the command names them.
    """
    kept = {name: value for name, value in asdict(config).items() if name not in NOT_IDENTITY}
    paths = [Path(name).expanduser() for name in weights]
    files = [path / package.WEIGHTS if path.is_dir() else path for path in paths]
    digests = [package.file_digest(path) for path in files if path.is_file()]
    return {
        **parts,
        "config": digest(config=kept),
        "weights": digest(files=digests),
        "store": digest(uri=config.tracking.uri),
    }


def open_run_folder(out: Path | None, name: str, identity: dict[str, str]) -> Path:
    """Create or reopen a run's folder: `out`, or one under runs/ named by the identity."""
    default = Path("runs") / f"{slug(name)}-{digest(**identity)[:8]}"
    return run_folder.open_folder(out or default, identity)
