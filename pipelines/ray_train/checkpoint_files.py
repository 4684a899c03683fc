"""Checkpoints in a run's storage: upload one, find the newest complete one."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

import ray.train
from ray.train import Checkpoint
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

from emlnet.training import checkpoint
from pipelines.ray_cluster.stop_signal import StopSignal

SECONDS_AFTER_ATTEMPTS = (1, 4, 0)
"""Seconds to wait after each attempt to upload a checkpoint."""


class CheckpointUploader:
    """Uploads checkpoints to the run's storage; ends training if every attempt fails.

    One upload runs at a time, so training waits for slow storage.
    """

    def __init__(self, stop_signal: StopSignal) -> None:
        self.stop_signal = stop_signal
        self.uploading = threading.Lock()

    def wait(self) -> None:
        """Wait for the previous upload; call this before each new one.

        If the previous upload failed, it waits until Ray ends the worker.
        """
        self.uploading.acquire()

    def __call__(self, saved: Checkpoint, name: str) -> Checkpoint:
        """Upload a checkpoint to the folder `name`.  Raises OSError after the last attempt."""
        storage = ray.train.get_context().get_storage()
        for pause in SECONDS_AFTER_ATTEMPTS:
            try:
                copied = storage.persist_current_checkpoint(saved, name)
            except (OSError, RuntimeError) as error:
                refused = error
                with suppress(OSError):  # Delete a partial upload.
                    folder = storage.build_checkpoint_path_from_name(name)
                    storage.storage_filesystem.delete_dir(folder)
                time.sleep(pause)
            else:
                self.uploading.release()
                return copied
        reason = describe_refusal(storage.experiment_fs_path, refused)
        self.stop_signal.give_up(reason)
        raise OSError(reason)


def describe_refusal(storage: str, error: Exception) -> str:
    """Return the error message for storage that refuses a checkpoint."""
    refused = str(error).partition("\n")[0] or type(error).__name__
    return (
        f"{storage} refuses a checkpoint ({refused}); the last good one is kept. When the storage "
        "accepts files again, the same command resumes from it"
    )


def drop_broken_list(folder: Path) -> None:
    """Delete Ray Train's list of a run's checkpoints if it is truncated, as after a kill.

    Ray Train cannot start with such a list; training resumes from `find_newest`.
    """
    path = folder / CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
    if path.is_file():
        try:
            json.loads(path.read_text())
        except ValueError:
            path.unlink()


def find_newest(folder: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint of a run; Ray names them by time."""
    for path in sorted(folder.glob("checkpoint_2*"), reverse=True):
        with suppress(ValueError):
            checkpoint.read(path)
            return Checkpoint.from_directory(path)
    return None
