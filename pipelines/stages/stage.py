"""What every training stage does around Ray Train: MLflow run, figures, packaged model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from emlnet.inference import package
from emlnet.metrics.saliency_metrics import LABELS
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder
from emlnet.registry.mlflow_registry import PACKAGE
from emlnet.training.state import LOWER_IS_BETTER, EpochReport
from pipelines.config.options import Compute, DecoderCommand, EncoderCommand, FullCommand, digest
from pipelines.ray_cluster import check_nodes, connection, sizing
from pipelines.ray_train import trainer, worker
from pipelines.tracking import figures, run_folder
from pipelines.tracking.epoch_logger import EpochLogger
from pipelines.tracking.mlflow_runs import Tracker, away, one_line
from pipelines.tracking.provenance import data_tags, git_commit
from shards.files.manifest import Manifest
from shards.files.store import location
from shards.read.order import check_mix
from shards.read.reader import Reader

HISTORY, SENT = "history.json", "mlflow-sent.json"


class StageJob(worker.Job, Protocol):
    """A job that can also put its model together from trained weights."""

    @property
    def data(self) -> Path | str:
        """Folder of shards."""

    def reader(self, split: str) -> Reader:
        """The samples to train on, or to validate with."""

    def finish(self, weights: dict[str, torch.Tensor]) -> Encoder | EMLNet:
        """The whole model, in eval mode, from the weights of the best epoch."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a command's stages work.

    folder: the run's own, absolute.  data: folder of shards, absolute, or its URL.  joined: those
    of more data sets to train on.  manifest: of all.  parent: the MLflow run that the
    stages are children of.
    """

    folder: Path
    data: Path | str
    manifest: Manifest
    tracker: Tracker
    compute: Compute
    joined: tuple[Path | str, ...] = ()
    parent: str | None = None

    @classmethod
    def over(
        cls,
        data: Sequence[Path | str],
        folder: Path,
        manifest: Manifest,
        tracker: Tracker,
        compute: Compute,
    ) -> Place:
        """The place of one data set or several; ValueError when a node does not see all of it."""
        check_nodes.check(list(data), folder, compute.storage_folder)
        first, *joined = data
        return cls(
            folder=folder,
            data=first,
            joined=tuple(joined),
            manifest=manifest,
            tracker=tracker,
            compute=compute,
        )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training stage: what it trains, where, and what is logged of it.

    kind: `encoder` or `decoder`.  folder: its own, under the place's.  licence: of the weights that
    training starts from.  notes: what its MLflow run says besides, Markdown; artifacts: files that
    it holds besides.
    """

    name: str
    kind: str
    job: StageJob
    place: Place
    folder: Path
    params: Mapping[str, Any]
    backbones: str
    licence: str
    notes: str = ""
    artifacts: tuple[Path, ...] = ()

    def run(self) -> run_folder.StageResult:
        """Trains, goes on, or finds what was done; logs curves, pictures and the package.

        An MLflow server that is away stops none of it: what it does not get is kept in the stage's
        folder, and sent when the stage is asked for again.
        """
        done = run_folder.find_result(self.folder)
        if done:
            print(
                f"{self.name}: done before (epoch {done.epoch} kept), in {self.folder}", flush=True
            )
            return self.send(done)
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with self.place.tracker.run_if_there(self.folder, self.name, **self._about()) as run_id:
            loggers = [EpochLogger(self.place.tracker, run_id)] if run_id else []
            content = trainer.train(self.job, self.folder / "training", self.place.compute, loggers)
            best = self._save(content)
        result = run_folder.StageResult(
            name=self.name,
            run_id=run_id,
            package=self.folder / PACKAGE,
            epoch=best.epoch,
            scores=best.scores,
            seconds=time.monotonic() - began,
        )
        run_folder.save_result(self.folder, result)
        return self.send(result)

    def send(self, result: run_folder.StageResult) -> run_folder.StageResult:
        """Sends to MLflow what it has not got yet; the result, with the run's id where that is new.

        When no server answers, a line says what is kept.
        """
        if (self.folder / SENT).is_file():
            return result
        tracker = self.place.tracker
        try:
            run_id = tracker.begin(self.folder, self.name, **self._about())
            history = json.loads((self.folder / HISTORY).read_text())
            tracker.missing_epochs(run_id, history)
            trace = self.folder / "training" / trainer.TRACE
            if trace.is_file():
                tracker.file(run_id, trace)
            for file in ("curves.png", "pictures.png", PACKAGE):
                tracker.file(run_id, self.folder / file, PACKAGE if file == PACKAGE else None)
            for path in self.artifacts:
                tracker.file(run_id, path)
            tracker.metrics(run_id, {f"best_{k}": v for k, v in result.scores.items()})
            words = summary(history, result, self.job.plan.select)
            tracker.describe(run_id, f"{words}\n\n{self.notes}".strip())
            tracker.end(run_id)
        except away() as error:
            print(
                f"{self.name}: MLflow does not answer ({one_line(error)}); its curves, pictures "
                f"and package are kept in {self.folder}",
                flush=True,
            )
            return result
        if run_id != result.run_id:
            result = replace(result, run_id=run_id)
            run_folder.save_result(self.folder, result)
        run_folder.write_json(self.folder / SENT, {"run_id": run_id})
        return result

    @property
    def is_sent(self) -> bool:
        """Whether MLflow has all of it."""
        return (self.folder / SENT).is_file()

    def _about(self) -> dict[str, Any]:
        """What its MLflow run is made with."""
        return {
            "params": self.params,
            "tags": {
                **data_tags(self.kind, self.place.manifest),
                "backbone": self.backbones,
                "seed": str(self.job.seed),
            },
            "parent": self.place.parent,
            "data": (self.place.data, self.place.manifest),
        }

    def _save(self, content: Mapping[str, Any]) -> EpochReport:
        """Writes history, packaged model, curves and pictures from a training's last checkpoint."""
        history = [EpochReport(**report) for report in content["history"]]
        best = next(report for report in reversed(history) if report.best)
        model = self.job.finish(content["best_weights"])
        reader, data = self.job.reader("val"), self.place.manifest
        about = {
            # A decoder's package is the whole model.
            "name": f"EML-NET of {data.name}" if self.kind == "decoder" else self.name,
            "scores": best.scores,
            "epoch": best.epoch,
            "data": {
                "name": data.name,
                "digest": data.digest,
                "licence": data.licence or "unknown",
            },
            "config": dict(self.params),
            "commit": git_commit(),
            "licence": self.licence,
        }
        package.save(self.folder / PACKAGE, model, about)
        figures.curves(history, self.name).savefig(self.folder / "curves.png")
        shown = figures.examples(
            reader, figures.NUM_EXAMPLES, lambda _, sample: figures.photograph_input(sample)
        )
        figures.grid(model, shown).save(self.folder / "pictures.png")
        run_folder.write_json(self.folder / HISTORY, content["history"])
        return best


def summary(history: list[dict[str, Any]], best: run_folder.StageResult, select: str) -> str:
    """What came out, in words."""
    scores = ", ".join(f"{LABELS.get(k, k)} {value:.3f}" for k, value in best.scores.items())
    order = "lowest" if select in LOWER_IS_BETTER else "highest"
    chosen = LABELS.get(select, select)
    return (
        f"Epoch {best.epoch} of {history[-1]['epoch']} was kept, the {order} {chosen} on val "
        f"(`mit` rules, no mirroring): {scores}."
    )


ELSEWHERE = ("tracking", "compute", "data", "readouts", "preset")
"""Fields of a command that say where it runs, reads and writes, not what comes out."""


def open_folder(
    command: EncoderCommand | DecoderCommand | FullCommand, name: str, identity: dict[str, str]
) -> Path:
    """The command's own folder, absolute: `--out`, or one under runs/ that it finds again.

    identity: what makes the run this one, beside its config; where it runs and writes does not.
    """
    config = {k: v for k, v in asdict(command).items() if k not in ELSEWHERE}
    identity = {
        **identity,
        "config": digest(config=config),
        "weights": digest(files=weight_files(_weights(command))),
        "store": digest(uri=command.tracking.uri),
    }
    safe = "".join(c if c.isalnum() or c in "+-_." else "-" for c in name)[:60]
    default = Path("runs") / f"{safe}-{digest(**identity)[:8]}"
    return run_folder.open_folder(command.tracking.out or default, identity)


def _weights(command: EncoderCommand | DecoderCommand | FullCommand) -> tuple[str, ...]:
    """The weights that a command starts from, as it names them."""
    if isinstance(command, FullCommand):
        return command.weights
    return (command.encoder.weights,) if isinstance(command, EncoderCommand) else ()


def weight_files(given: Sequence[str]) -> list[str]:
    """SHA-256 of the file of weights, of all that are given, that are named by their path."""
    paths = [Path(name).expanduser() for name in given]
    paths = [path / package.WEIGHTS if path.is_dir() else path for path in paths]
    return [package.file_digest(path) for path in paths if path.is_file()]


def open_place(command: EncoderCommand | DecoderCommand, stage: str, what: str) -> Place:
    """The place of a stage that runs alone; connects to Ray."""
    if command.mix:
        check_mix(command.data, command.mix)
    data = [location(given) for given in command.data]
    manifest = Manifest.join([Manifest.load(folder) for folder in data])
    identity = {"command": stage, "data": manifest.digest}
    folder = open_folder(command, f"{stage}-{what}", identity)
    tracker = Tracker.open(command.tracking.uri, command.tracking.experiment or manifest.name)
    connection.connect(command.compute)
    sizing.check_batch(command.plan.batch_size, command.compute)
    return Place.over(data, folder, manifest, tracker, command.compute)


def say(result: run_folder.StageResult) -> None:
    """Prints what a stage that ran alone gave."""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
    print(f"{result.name}: epoch {result.epoch} kept, val {scores}")
    print(f"MLflow run {result.run_id}; model in {result.package}", flush=True)
