"""What the processes of one training add up; in a single process, nothing to add."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, or the tensor itself when there is one process."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def num_ranks() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1
