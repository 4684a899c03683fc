"""In a worker: save ahead of time when the command must stop or a node is about to go."""

from __future__ import annotations

import time

import ray.train
import torch

from emlnet.training.distributed import sum_over_ranks
from pipelines.ray_cluster.stop_signal import StopListener, StoppedError, StopSignal

SECONDS_BETWEEN_PREEMPTION_CHECKS = 2.0
"""All workers wait for one another in a check."""


class EarlySave:
    """Decides, on all ranks alike, whether to save a checkpoint now."""

    def __init__(
        self, title: str, rank: int, device: torch.device, stop_signal: StopSignal
    ) -> None:
        self.title, self.rank, self.device = title, rank, device
        self.listener = None if rank else StopListener(stop_signal)
        self.stops = False
        """Whether training stops after the next save."""
        self.leaving: set[str] = set()
        """Ids of the nodes that are about to go."""
        self.last_check = time.monotonic()

    def is_due(self) -> bool:
        """Whether to save now; every rank calls it equally often and gets the same answer."""
        due = time.monotonic() - self.last_check > SECONDS_BETWEEN_PREEMPTION_CHECKS
        own = [self.listener is not None and self.listener.stop_requested, due and self.rank == 0]
        flags = sum_over_ranks(torch.tensor(own, dtype=torch.int32, device=self.device))
        stop, check = (flags > 0).tolist()
        self.stops |= stop
        return self.stops or (check and self._is_node_leaving())

    def _is_node_leaving(self) -> bool:
        """Whether a node is about to go that was not before."""
        self.last_check = time.monotonic()
        news = ray.train.get_preemption_info()
        if news is None or self.leaving.issuperset(news.preempted_node_ids):
            return False
        self.leaving = set(news.preempted_node_ids)
        if self.rank == 0:
            ranks = ", ".join(map(str, news.preempted_ranks))
            print(f"{self.title}: a node with rank {ranks} will go, saving now", flush=True)
        return True

    def raise_if_stopped(self) -> None:
        """Raise StoppedError when training is to stop; called after each save."""
        if self.stops:
            raise StoppedError
