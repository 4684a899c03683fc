"""What the processes of one training add up; in a single process, nothing to add."""

from __future__ import annotations

import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, or the tensor itself when there is one process."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def share_gradients(
    model: nn.Module, device: torch.device, num_parts: int = 1
) -> DistributedDataParallel:
    """The model whose gradients are averaged over all ranks as they are computed.

    num_parts: batches that each step is made of.  A graph that never changes is cheaper to follow,
    but must exchange gradients at every backward pass.
    """
    # Of a dimension of length 1, whose stride means nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=num_parts == 1,
    )


def num_ranks() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1
