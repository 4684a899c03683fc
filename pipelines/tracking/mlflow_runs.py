"""The only writer to MLflow runs: parameters, metrics per epoch, artifacts."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emlnet.public_url import public_url
from emlnet.registry.mlflow_registry import ABSENT, connect, first_line
from pipelines.config.identity import digest
from pipelines.ray_cluster.stop_signal import StoppedError
from pipelines.tracking.provenance import code_tags, dataset_input, host_kind
from pipelines.tracking.run_folder import read_json, write_json
from shards.files.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient

RUN_ID = "mlflow-run.json"
EPOCH_SECONDS = "epoch_seconds"
EXPERIMENT_TAGS = {
    # Open MLflow's pages for training, not those for agents.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "A run of `full` is a parent; its stages are its children. "
    "The scores and the report are among the parent's artifacts.",
}
SHORT_WAITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""Training does not wait long for a server; unsent records are sent later."""
SECONDS_BETWEEN_TRIES = 3
STOPS = (StoppedError, KeyboardInterrupt, SystemExit)
PICTURES = "pictures"
"""Artifact folder of a run's pictures, one per epoch."""


def tracking_errors() -> tuple[type[Exception], ...]:
    """Return the types of errors of a store that does not answer."""
    # Import MLflow at first use: workers import this file and log nothing.
    from mlflow.exceptions import MlflowException

    return MlflowException, OSError, ValueError


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """Writes the runs of one experiment; can be sent to other processes."""

    uri: str
    experiment_id: str = ""
    """Empty if the tracker only writes to existing runs."""

    @classmethod
    def open(cls, uri: str, experiment: str) -> Tracker:
        """Open a store and its experiment; create the experiment, and a SQLite store, if missing.

        Several processes that create a SQLite store at once fail, so it is created here.  Its
        artifacts lie beside it.  Raises ValueError if no server answers.
        """
        location = None
        if uri.startswith("sqlite:///"):
            path = Path(uri.removeprefix("sqlite:///")).absolute()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            location = (path.parent / "mlartifacts" / experiment).as_uri()
        client = connect(uri)
        found = client.get_experiment_by_name(experiment)
        if found and found.lifecycle_stage == "deleted":
            raise ValueError(
                f"experiment {experiment!r} was deleted from {public_url(uri)}; restore it, or "
                "name another with --experiment"
            )
        known = found and found.experiment_id
        made = known or client.create_experiment(experiment, location, tags=EXPERIMENT_TAGS)
        return cls(uri=uri, experiment_id=str(made))

    @property
    def client(self) -> MlflowClient:
        """A client of the store.  Raises ValueError if it is missing or does not answer."""
        for variable, value in SHORT_WAITS.items():
            os.environ.setdefault(variable, value)
        return connect(self.uri)

    def begin(
        self,
        folder: Path,
        name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
        data: tuple[Path | str, Manifest] | None = None,
    ) -> str:
        """Begin a run, or resume the folder's earlier one; return its id.

        parent: id of the parent run.  data: shards that the run uses, and their manifest.
        """
        from mlflow.entities import Param

        client = self.client
        run_id = self._known(folder)
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            return run_id
        own = {"mlflow.source.name": "emlnet", "host": host_kind(), **code_tags(), **tags}
        if parent:
            own["mlflow.parentRunId"] = parent
        run_id = str(client.create_run(self.experiment_id, run_name=name, tags=own).info.run_id)
        write_json(folder / RUN_ID, {"run_id": run_id, "store": digest(uri=self.uri)})
        entries = [Param(key, str(value)[:6000]) for key, value in params.items()]
        client.log_batch(run_id, params=entries)
        if data:
            client.log_inputs(run_id, [dataset_input(*data)])
        return run_id

    def end(self, run_id: str) -> None:
        """Mark a run as finished."""
        self.client.set_terminated(run_id, status="FINISHED")

    @contextmanager
    def run(self, folder: Path, name: str, **options: Any) -> Iterator[str]:
        """Begin a run, yield its id, and end it after the body.  options: of `begin`.

        System metrics are logged meanwhile.  If the body raises, the run is marked as FAILED, or as
        KILLED after a stop request, with the reason as its description.
        """
        run_id = self.begin(folder, name, **options)
        with self._watched(run_id):
            yield run_id
        self.end(run_id)

    @contextmanager
    def run_if_there(self, folder: Path, name: str, **options: Any) -> Iterator[str]:
        """As `run`, but do not end the run; yield an empty id if the store does not answer."""
        try:
            run_id = self.begin(folder, name, **options)
        except tracking_errors() as error:
            print(
                f"{name}: MLflow does not answer ({public_first_line(error)}); training without it"
            )
            yield ""
            return
        with self._watched(run_id):
            yield run_id

    @contextmanager
    def _watched(self, run_id: str) -> Iterator[None]:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        except BaseException as error:
            with suppress(Exception):  # The body's error is the one to raise.
                status = "KILLED" if isinstance(error, STOPS) else "FAILED"
                self.client.set_terminated(run_id, status=status)
                self.describe(run_id, public_url(f"Failed: {type(error).__name__}: {error}"))
            raise
        finally:
            monitor.finish()

    def wait(self, seconds: float) -> bool:
        """Whether the store answers within some seconds."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.client.get_experiment(self.experiment_id)
            except tracking_errors():
                if time.monotonic() > deadline:
                    return False
                time.sleep(SECONDS_BETWEEN_TRIES)
            else:
                return True

    def _known(self, folder: Path) -> str | None:
        """Return the folder's run id; None if the store does not have that run."""
        from mlflow.exceptions import MlflowException

        known = read_json(folder / RUN_ID)
        if known is None or known["store"] != digest(uri=self.uri):
            return None
        try:
            self.client.get_run(known["run_id"])
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise  # An unreachable store does not mean that the run is missing.
            return None
        return str(known["run_id"])

    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        """Log values by name at a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(name, float(value), now, step) for name, value in values.items()]
        self.client.log_batch(run_id, metrics=entries)

    def log_epoch(self, run_id: str, report: Mapping[str, Any]) -> None:
        """Log an epoch's report at its number."""
        values = {
            **{f"train_{k}": v for k, v in report["train_loss"].items()},
            **{f"val_{k}": v for k, v in report["scores"].items()},
            "train_skipped": report["skipped"],
            "images_unread": report.get("unread", 0),
            EPOCH_SECONDS: report["seconds"],
        }
        self.log_metrics(run_id, values, report["epoch"])

    def log_missing_epochs(self, run_id: str, history: Sequence[Mapping[str, Any]]) -> None:
        """Log the epochs that did not reach the store while training ran."""
        known = {m.step for m in self.client.get_metric_history(run_id, EPOCH_SECONDS)}
        for report in history:
            if report["epoch"] not in known:
                self.log_epoch(run_id, report)

    def log_pictures(self, run_id: str, jpeg: bytes, epoch: int) -> None:
        """Log pictures of an epoch's predictions as `pictures/epoch-<epoch>.jpg`."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"epoch-{epoch:02}.jpg"
            path.write_bytes(jpeg)
            self.log_file(run_id, path, PICTURES)

    def describe(self, run_id: str, text: str, **tags: str) -> None:
        """Set a run's description, Markdown, and tags."""
        for name, value in {"mlflow.note.content": text, **tags}.items():
            self.client.set_tag(run_id, name, value)

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Log a file, or all files of a folder, among the run's artifacts."""
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        log(run_id, str(path), folder)


def public_first_line(error: Exception) -> str:
    """Return an error's first line, at most 200 characters, without secrets in URLs."""
    return public_url(first_line(error))
