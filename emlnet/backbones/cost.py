"""What a backbone costs, without computing it: parameters and multiply-adds."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from emlnet.backbones.row import Backbone


def nearest_size(row: Backbone, size: tuple[int, int]) -> tuple[int, int]:
    """The size next to the given one, (H, W) in pixels, that the backbone takes."""
    if row.only_size:
        return row.size
    height, width = (max(1, round(side / row.multiple)) * row.multiple for side in size)
    return height, width


def cost(row: Backbone, size: tuple[int, int]) -> tuple[int, float]:
    """Parameters up to the last tap, and 10^9 multiply-adds for one picture of (H, W) pixels.

    Convolutions and matrix products are counted.
    """
    with torch.device("meta"), torch.no_grad():
        network = row.build().eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, *size))
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    return num_parameters, counter.get_total_flops() / 2e9
