"""The callback of Ray Train that logs each epoch's metrics and pictures to MLflow."""

from __future__ import annotations

import base64
from typing import Any

from ray.train import UserCallback

from pipelines.tracking.mlflow_runs import Tracker, public_first_line


class EpochLogger(UserCallback):  # type: ignore[misc]
    """Logs each epoch once, from Ray Train's controller.

    At its end the stage sends the metrics that MLflow did not receive.
    """

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        self.tracker, self.run_id = tracker, run_id

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Log rank 0's report of an epoch; called when every worker has reported."""
        report, pictures = metrics[0].get("report"), metrics[0].get("pictures")
        if report is None:
            return
        try:
            self.tracker.log_epoch(self.run_id, report)
            if pictures:
                self.tracker.log_pictures(self.run_id, base64.b64decode(pictures), report["epoch"])
        except Exception as error:  # No error may stop training.
            print(
                f"MLflow does not answer ({public_first_line(error)}); the scores of epoch "
                f"{report['epoch']} are sent later, its pictures are not"
            )
