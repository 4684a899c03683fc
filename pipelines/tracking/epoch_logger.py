"""The callback of Ray Train that logs each epoch's metrics and pictures to MLflow."""

from __future__ import annotations

import base64
from typing import Any

from ray.train import UserCallback

from pipelines.tracking.mlflow_runs import Tracker, one_line


class EpochLogger(UserCallback):  # type: ignore[misc]
    """Logs each epoch once: it runs in Ray Train's controller, which sees no epoch twice.

    Epochs that MLflow could not take are kept and sent with the next one.
    """

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        self.tracker, self.run_id = tracker, run_id
        self.unsent: list[dict[str, Any]] = []

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Log rank 0's report of an epoch; called when every worker has reported."""
        if metrics[0].get("report") is None:
            return
        self.unsent.append(metrics[0])
        try:
            while self.unsent:
                self._log(self.unsent[0])
                del self.unsent[0]
        except Exception as error:  # Whatever it is, it must not stop training.
            epochs = ", ".join(str(entry["report"]["epoch"]) for entry in self.unsent)
            print(f"MLflow does not answer ({one_line(error)}); kept for later: epoch {epochs}")

    def _log(self, entry: dict[str, Any]) -> None:
        report = entry["report"]
        self.tracker.epoch(self.run_id, report)
        if entry.get("pictures"):
            jpeg = base64.b64decode(entry["pictures"])
            self.tracker.pictures(self.run_id, jpeg, report["epoch"])
