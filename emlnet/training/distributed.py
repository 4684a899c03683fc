"""Sums over the processes that train together."""

from __future__ import annotations

import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def num_ranks() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks; may overwrite the tensor."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def share_gradients(
    model: nn.Module, device: torch.device, batches_per_step: int = 1
) -> DistributedDataParallel:
    """Wrap the model so that gradients are averaged over all ranks.

    batches_per_step: batches whose gradients a step adds up.  Only a single one allows a static
    graph, which is faster but exchanges gradients in every backward pass.
    """
    # PyTorch warns about the strides of dimensions of length 1, which have no effect.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=batches_per_step == 1,
    )
