"""In a worker: how a checkpoint reaches the run's storage."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import ray.train
from ray.train import Checkpoint

from pipelines.ray_cluster.stop_signal import StopSignal

SECONDS_AFTER_ATTEMPTS = (1, 4, 0)
"""Seconds to wait after each attempt to upload a checkpoint."""


class CheckpointUploader:
    """Copies a checkpoint to the run's storage; ends training when that refuses every attempt.

    Half a checkpoint is deleted, and the last good one stays what training resumes from.
    Only one is uploaded at a time: where storage is slower than training, training waits.
    """

    def __init__(self, stop_signal: StopSignal) -> None:
        self.stop_signal = stop_signal
        self.uploading = threading.Lock()

    def wait(self) -> None:
        """Wait for the previous checkpoint; to be called before each one.

        When that one was refused, it waits until Ray ends the worker.
        """
        self.uploading.acquire()

    def __call__(self, saved: Checkpoint, name: str) -> Checkpoint:
        """Copy a checkpoint to the folder of that name; OSError after the last attempt."""
        storage = ray.train.get_context().get_storage()
        for pause in SECONDS_AFTER_ATTEMPTS:
            try:
                copied = storage.persist_current_checkpoint(saved, name)
            except (OSError, RuntimeError) as error:
                refused = error
                with suppress(OSError):
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
    """Say that storage takes no checkpoint, why, and what to do."""
    refused = str(error).partition("\n")[0] or type(error).__name__
    return (
        f"{storage} takes no checkpoint ({refused}); the last good one is kept. When it takes "
        "files again, the same command resumes from it"
    )
