"""Ray Train's own list of a run's checkpoints, mended where a kill cut it short."""

from __future__ import annotations

import json
from pathlib import Path

from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
    _CheckpointManagerState,
    _TrainingResultState,
)

from emlnet.atomic_files import write_text
from emlnet.training import checkpoint


def mend_checkpoint_list(folder: Path) -> None:
    """Write the list anew from the newest whole checkpoint when it cannot be parsed.

    folder: a run's, with its checkpoints.  Ray Train does not replace the file in one step, and
    refuses half a list at every later start.
    """
    path = folder / CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
    try:
        json.loads(path.read_text())
    except FileNotFoundError:
        return
    except ValueError:
        newest = _newest_checkpoint(folder)
        if newest is None:
            path.unlink()
            return
        result = _TrainingResultState(checkpoint_dir_name=newest, metrics={})
        state = _CheckpointManagerState(
            checkpoint_results=[result],
            checkpoint_report_indices=[0],
            latest_checkpoint_result=result,
            pending_training_results=[],
            pending_validation_specs=[],
            current_report_index=1,
            validated_checkpoint_dir_names=[],
            timed_out_validation_checkpoint_dir_names=[],
            failed_validation_checkpoint_dir_names=[],
        )
        write_text(path, state.model_dump_json())


def _newest_checkpoint(folder: Path) -> str | None:
    """The name of the newest checkpoint that can be read; Ray names them by their time."""
    for path in sorted(folder.glob("checkpoint_2*"), reverse=True):
        try:
            checkpoint.read(path)
        except ValueError:
            continue
        return path.name
    return None
