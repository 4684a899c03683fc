"""In a worker: when a checkpoint is saved out of turn, and how one reaches the run's storage."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import ray.train
import torch
from ray.train import Checkpoint

from emlnet.training.distributed import sum_over_ranks
from pipelines.ray_cluster.stop_signal import StopListener, StoppedError, StopSignal

SECONDS_BETWEEN_DRAIN_CHECKS = 2.0
"""Asking Ray whether a node is about to go makes all workers wait for each other."""
SECONDS_BETWEEN_UPLOADS = (1, 4, 0)
"""After each attempt to upload a checkpoint, before the next."""


class Urgency:
    """Whether to save at once: the command was asked to end, or a node is about to go."""

    def __init__(
        self, title: str, rank: int, device: torch.device, listener: StopListener | None
    ) -> None:
        self.title, self.rank, self.device, self.listener = title, rank, device, listener
        self.stops = False
        """Whether training ends with the next save."""
        self.last_look = time.monotonic()
        self.leaving: list[str] = []

    def asks(self) -> bool:
        """One answer on all ranks, which call it equally often; a few bytes between them."""
        looks = time.monotonic() - self.last_look > SECONDS_BETWEEN_DRAIN_CHECKS
        stops = self.listener is not None and self.listener.stop_requested
        own = [stops, self.rank == 0 and looks]
        stops, looks = sum_over_ranks(torch.tensor(own, dtype=torch.int32, device=self.device)) > 0
        if stops:
            self.stops = True
            return True
        if not looks:
            return False
        self.last_look = time.monotonic()
        news = ray.train.get_preemption_info()
        if news is None or set(news.preempted_node_ids) <= set(self.leaving):
            return False
        self.leaving = news.preempted_node_ids
        if self.rank == 0:
            ranks = ", ".join(map(str, news.preempted_ranks))
            print(f"{self.title}: a node with rank {ranks} will go, saving now", flush=True)
        return True

    def obey(self) -> None:
        """Called after a save.  Raises StoppedError where training was to end with it."""
        if self.stops:
            raise StoppedError


def refusal(place: str, error: Exception) -> str:
    """What to tell a person whose storage refuses what training has to keep."""
    refused = str(error).partition("\n")[0] or type(error).__name__
    return (
        f"{place} takes no checkpoint ({refused}); the last good one is kept. When it takes files "
        "again, the same command goes on from it"
    )


class Uploader:
    """Copies a checkpoint to the run's storage; what stays refused ends training, with the reason.

    Half a checkpoint is taken away again, and the last good one stays what training resumes from.
    One is on its way at a time: where storage is slower than training, `wait` makes training wait.
    """

    def __init__(self, stop_signal: StopSignal) -> None:
        self.stop_signal = stop_signal
        self.busy = threading.Lock()

    def wait(self) -> None:
        """Until the checkpoint before has arrived; to be called before each one.

        For ever when that was refused: there Ray ends the worker.
        """
        self.busy.acquire()

    def __call__(self, saved: Checkpoint, name: str) -> Checkpoint:
        """Copies it to the folder of that name; raises OSError after the last attempt."""
        copied = self._copy(saved, name)
        self.busy.release()
        return copied

    def _copy(self, saved: Checkpoint, name: str) -> Checkpoint:
        storage = ray.train.get_context().get_storage()
        for pause in SECONDS_BETWEEN_UPLOADS:
            try:
                return storage.persist_current_checkpoint(saved, name)
            except (OSError, RuntimeError) as error:
                refused = error
                with suppress(OSError):
                    folder = storage.build_checkpoint_path_from_name(name)
                    storage.storage_filesystem.delete_dir(folder)
            time.sleep(pause)
        reason = refusal(storage.experiment_fs_path, refused)
        self.stop_signal.give_up(reason)
        raise OSError(reason)
