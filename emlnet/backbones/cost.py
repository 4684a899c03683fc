"""Size and cost of a backbone."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from emlnet.backbones.row import Backbone


def cost(row: Backbone, size: tuple[int, int]) -> tuple[int, float]:
    """Return the parameters up to the last tap, and 10^9 multiply-adds per picture of (H, W).

    Convolutions and matrix products are counted, without computing them.
    """
    with torch.device("meta"), torch.no_grad():
        network = row.build().eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, *size))
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    return num_parameters, counter.get_total_flops() / 2e9
