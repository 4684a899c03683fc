"""One training stage: Ray Train, an MLflow run, curves, pictures and a packaged model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from emlnet.inference import package
from emlnet.metrics.saliency_metrics import BY_NAME, label
from emlnet.registry.mlflow_registry import PACKAGE
from emlnet.training.state import EpochReport
from pipelines.ray_train import trainer
from pipelines.ray_train.training_job import TrainingJob
from pipelines.stages.run_context import RunContext
from pipelines.tracking import figures, run_folder
from pipelines.tracking.epoch_logger import EpochLogger
from pipelines.tracking.mlflow_runs import public_first_line, tracking_errors
from pipelines.tracking.provenance import data_tags, git_commit
from pipelines.tracking.run_folder import StageResult

HISTORY, SENT = "history.json", "mlflow-sent.json"
CURVES, PICTURES = "curves.png", "pictures.png"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training stage: its job, its folder and the facts for its MLflow run.

    kind: `fold` is an encoder that left out one fold of the training images.
    folder: below the run's folder.  licence: the starting weights' licence.
    notes: Markdown to add to the description.  artifacts: further files to log.
    """

    kind: Literal["encoder", "fold", "decoder"]
    job: TrainingJob
    context: RunContext
    folder: Path
    params: Mapping[str, Any]
    backbones: str
    licence: str
    notes: str = ""
    artifacts: tuple[Path, ...] = ()

    def run(self) -> StageResult:
        """Train, resume, or load the result of a finished stage.

        If MLflow does not answer, training continues.  Unsent files stay in the stage's folder and
        are sent when the same command runs again.
        """
        name, done = self.job.title, run_folder.find_result(self.folder)
        if done is None:
            done = self._train()
        else:
            print(f"{name}: done before (epoch {done.epoch} kept), in {self.folder}", flush=True)
        return self.send(done)

    def _train(self) -> StageResult:
        """Train or resume; save the result in the stage's folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        began, tracker, name = time.monotonic(), self.context.tracker, self.job.title
        with tracker.run_if_there(self.folder, name, **self._run_options()) as run_id:
            loggers = [EpochLogger(tracker, run_id)] if run_id else []
            checkpoint = trainer.train(
                self.job, self.folder / "training", self.context.compute, loggers
            )
            best = self._save(checkpoint)
        result = StageResult(
            name=name,
            run_id=run_id,
            package=self.folder / PACKAGE,
            epoch=best.epoch,
            scores=best.scores,
            seconds=time.monotonic() - began,
        )
        run_folder.save_result(self.folder, result)
        return result

    def send(self, result: StageResult) -> StageResult:
        """Send to MLflow the parts of the result that it lacks; return the result with its run id.

        If MLflow does not answer, print that the files are kept.
        """
        if self.is_sent:
            return result
        tracker, name = self.context.tracker, self.job.title
        try:
            run_id = tracker.begin(self.folder, name, **self._run_options())
            history = json.loads((self.folder / HISTORY).read_text())
            tracker.log_missing_epochs(run_id, history)
            trace = self.folder / "training" / trainer.TRACE
            files = [self.folder / CURVES, self.folder / PICTURES, *self.artifacts]
            for path in [*files, trace] if trace.is_file() else files:
                tracker.log_file(run_id, path)
            tracker.log_file(run_id, self.folder / PACKAGE, PACKAGE)
            tracker.log_metrics(run_id, {f"best_{k}": v for k, v in result.scores.items()})
            summary = describe_result(result, history[-1]["epoch"], self.job.plan.select)
            tracker.describe(run_id, f"{summary}\n\n{self.notes}".strip())
            tracker.end(run_id)
        except tracking_errors() as error:
            print(
                f"{name}: MLflow does not answer ({public_first_line(error)}); its curves, "
                f"pictures and package are kept in {self.folder}",
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
        """Whether MLflow has the whole result."""
        return (self.folder / SENT).is_file()

    def _run_options(self) -> dict[str, Any]:
        """Return the options of its MLflow run."""
        manifest = self.context.manifest
        tags = {"backbone": self.backbones, "seed": str(self.job.seed)}
        return {
            "params": self.params,
            "tags": {**data_tags(self.kind, manifest), **tags},
            "parent": self.context.parent,
            "data": (self.context.data[0], manifest),
        }

    def _save(self, checkpoint: Mapping[str, Any]) -> EpochReport:
        """Write package, curves, pictures and history; return the report of the best epoch."""
        history = [EpochReport(**report) for report in checkpoint["history"]]
        best = next(report for report in reversed(history) if report.best)
        model, manifest = self.job.finish(checkpoint["best_weights"]), self.context.manifest
        about = {
            # A decoder's package is the whole model.
            "name": f"EML-NET of {manifest.name}" if self.kind == "decoder" else self.job.title,
            "scores": best.scores,
            "epoch": best.epoch,
            "data": {
                "name": manifest.name,
                "digest": manifest.digest,
                "licence": manifest.licence or "unknown",
                "num_images": len(self.job.reader("train")),
            },
            "config": dict(self.params),
            "commit": git_commit(),
            "preset": self.context.preset,
            "licence": self.licence,
        }
        package.save(self.folder / PACKAGE, model, about)
        figures.curves(history, self.job.title).savefig(self.folder / CURVES)
        examples = figures.examples(
            self.job.reader("val"),
            figures.NUM_EXAMPLES,
            lambda _, sample: figures.photograph_input(sample),
        )
        figures.predictions(model, examples, self.job.title).savefig(self.folder / PICTURES)
        run_folder.write_json(self.folder / HISTORY, checkpoint["history"])
        return best


def describe_result(result: StageResult, num_epochs: int, select: str) -> str:
    """Describe the kept epoch: its number, the reason and its scores."""
    order = "lowest" if BY_NAME[select].lower_is_better else "highest"
    return (
        f"Epoch {result.epoch} of {num_epochs} was kept, the {order} {label(select)} "
        f"on val (`mit` rules, no mirroring): {_words(result.scores)}."
    )


def print_result(result: StageResult) -> None:
    """Print the result of a command that ran one stage."""
    print(f"{result.name}: epoch {result.epoch} kept, val {_words(result.scores)}")
    print(f"MLflow run {result.run_id}; model in {result.package}", flush=True)


def _words(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{label(name)} {value:.3f}" for name, value in scores.items())
