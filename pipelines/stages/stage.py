"""One training stage: Ray Train, an MLflow run, curves, pictures and a packaged model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emlnet.inference import package
from emlnet.metrics.saliency_metrics import BY_NAME, label
from emlnet.registry.mlflow_registry import PACKAGE
from emlnet.training.state import EpochReport
from pipelines.ray_train import trainer
from pipelines.ray_train.training_job import TrainingJob
from pipelines.stages.run_context import RunContext
from pipelines.tracking import figures, run_folder
from pipelines.tracking.epoch_logger import EpochLogger
from pipelines.tracking.mlflow_runs import away, one_line
from pipelines.tracking.provenance import data_tags, git_commit

HISTORY, SENT = "history.json", "mlflow-sent.json"
CURVES, PICTURES = "curves.png", "pictures.png"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training stage: what it trains, where, and what its MLflow run says.

    kind: `encoder` or `decoder`.  folder: its own, under the run's.  licence: of the weights that
    training starts from.  notes: more for the description, Markdown.  artifacts: more files.
    """

    name: str
    kind: str
    job: TrainingJob
    context: RunContext
    folder: Path
    params: Mapping[str, Any]
    backbones: str
    licence: str
    notes: str = ""
    artifacts: tuple[Path, ...] = ()

    def run(self) -> run_folder.StageResult:
        """Train, resume, or find what was done.

        An MLflow server that does not answer stops nothing: what it lacks is kept in the stage's
        folder, and sent when the stage is asked for again.
        """
        if done := run_folder.find_result(self.folder):
            print(
                f"{self.name}: done before (epoch {done.epoch} kept), in {self.folder}", flush=True
            )
            return self.send(done)
        self.folder.mkdir(parents=True, exist_ok=True)
        began, tracker = time.monotonic(), self.context.tracker
        with tracker.run_if_there(self.folder, self.name, **self._run_options()) as run_id:
            loggers = [EpochLogger(tracker, run_id)] if run_id else []
            checkpoint = trainer.train(
                self.job, self.folder / "training", self.context.compute, loggers
            )
            best = self._save(checkpoint)
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
        """Send to MLflow what it lacks; return the result, with the run's id where that is new.

        When no server answers, a line says what is kept.
        """
        if self.is_sent:
            return result
        tracker = self.context.tracker
        try:
            run_id = tracker.begin(self.folder, self.name, **self._run_options())
            history = json.loads((self.folder / HISTORY).read_text())
            tracker.missing_epochs(run_id, history)
            trace = self.folder / "training" / trainer.TRACE
            files = [self.folder / CURVES, self.folder / PICTURES, trace, *self.artifacts]
            for path in files:
                if path != trace or trace.is_file():
                    tracker.file(run_id, path)
            tracker.file(run_id, self.folder / PACKAGE, PACKAGE)
            tracker.metrics(run_id, {f"best_{k}": v for k, v in result.scores.items()})
            summary = describe_result(result, history[-1]["epoch"], self.job.plan.select)
            tracker.describe(run_id, f"{summary}\n\n{self.notes}".strip())
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

    def _run_options(self) -> dict[str, Any]:
        """What its MLflow run is created with."""
        manifest = self.context.manifest
        return {
            "params": self.params,
            "tags": {
                **data_tags(self.kind, manifest),
                "backbone": self.backbones,
                "seed": str(self.job.seed),
            },
            "parent": self.context.parent,
            "data": (self.context.data[0], manifest),
        }

    def _save(self, checkpoint: Mapping[str, Any]) -> EpochReport:
        """Write package, curves, pictures and history from the last checkpoint; the best epoch."""
        history = [EpochReport(**report) for report in checkpoint["history"]]
        best = next(report for report in reversed(history) if report.best)
        model, manifest = self.job.finish(checkpoint["best_weights"]), self.context.manifest
        about = {
            # A decoder's package is the whole model.
            "name": f"EML-NET of {manifest.name}" if self.kind == "decoder" else self.name,
            "scores": best.scores,
            "epoch": best.epoch,
            "data": {
                "name": manifest.name,
                "digest": manifest.digest,
                "licence": manifest.licence or "unknown",
                "num_images": len(manifest.splits["train"].samples),
            },
            "config": dict(self.params),
            "commit": git_commit(),
            "licence": self.licence,
        }
        package.save(self.folder / PACKAGE, model, about)
        figures.curves(history, self.name).savefig(self.folder / CURVES)
        examples = figures.examples(
            self.job.reader("val"),
            figures.NUM_EXAMPLES,
            lambda _, sample: figures.photograph_input(sample),
        )
        figures.predictions(model, examples, self.name).savefig(self.folder / PICTURES)
        run_folder.write_json(self.folder / HISTORY, checkpoint["history"])
        return best


def describe_result(result: run_folder.StageResult, num_epochs: int, select: str) -> str:
    """Say which epoch was kept, why, and its scores."""
    scores = ", ".join(f"{label(k)} {value:.3f}" for k, value in result.scores.items())
    order = "lowest" if BY_NAME[select].lower_is_better else "highest"
    return (
        f"Epoch {result.epoch} of {num_epochs} was kept, the {order} {label(select)} "
        f"on val (`mit` rules, no mirroring): {scores}."
    )


def print_result(result: run_folder.StageResult) -> None:
    """Print what a stage gave that was a command of its own."""
    scores = ", ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
    print(f"{result.name}: epoch {result.epoch} kept, val {scores}")
    print(f"MLflow run {result.run_id}; model in {result.package}", flush=True)
