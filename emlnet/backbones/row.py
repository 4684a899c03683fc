"""A row of the table of backbones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

STEM_AND_STAGES = (2, 4, 8, 16, 32)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One row of the table.

    build: returns the network with random weights.  Called on (B, 3, H, W), the network returns the
    tapped feature maps, one per entry of `channels`, each (B, channels, H / reduction, W /
    reduction).
    mean, std: normalisation of 0..1 pixels in pretraining.  size: (H, W) of pretraining.
    multiple: heights and widths must be multiples of it.  only_size: whether it takes only `size`.
    package: Python package that ships ImageNet weights, or empty.
    url: weights file that its library downloads, or empty.  file: its local name; default: as in
    url.
    rename: maps a checkpoint's key to the network's.  head: prefixes of renamed keys after the last
    tap (the classifier), which are not loaded.
    licence: the weights' licence; empty if unknown.
    eml_kernel: kernel size of the paper's readouts: 3 with ReLU and nearest-neighbour resizing
    (ResNet-50), 1 with sigmoid and bilinear resizing (NASNet).
    """

    name: str
    build: Callable[[], nn.Module]
    channels: tuple[int, ...]
    reductions: tuple[int, ...] = STEM_AND_STAGES
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    size: tuple[int, int] = (224, 224)
    multiple: int = 1
    only_size: bool = False
    source: str = ""
    package: str = ""
    url: str = ""
    file: str = ""
    rename: Callable[[str], str] = str
    head: tuple[str, ...] = ("fc.", "classifier.")
    licence: str = ""
    eml_kernel: int = 3

    def cost(self, size: tuple[int, int]) -> tuple[int, float]:
        """Return the number of parameters up to the last tap, and 10^9 multiply-adds per picture.

        size: (H, W).  Counts convolutions and matrix products, without computing them.
        """
        from torch.utils.flop_counter import FlopCounterMode

        with torch.device("meta"), torch.no_grad():
            network = self.build().eval()
            with FlopCounterMode(display=False) as counter:
                network(torch.empty(1, 3, *size))
        num_parameters = sum(parameter.numel() for parameter in network.parameters())
        return num_parameters, counter.get_total_flops() / 2e9

    @property
    def step(self) -> int:
        """Step of heights and widths in pixels: 8, or a transformer's patch size."""
        return self.multiple if 8 % self.multiple else 8

    def nearest_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the valid size nearest to (H, W), in pixels."""
        if self.only_size:
            return self.size
        height, width = (max(1, round(side / self.multiple)) * self.multiple for side in size)
        return height, width

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ValueError naming the nearest valid size if the backbone does not take a size."""
        height, width = self.nearest_size(size)
        if (height, width) == size:
            return
        takes = (
            f"only pictures of {height} x {width} pixels"
            if self.only_size
            else f"heights and widths divisible by {self.multiple}"
        )
        raise ValueError(
            f"{self.name} takes {takes}, not {size[0]} x {size[1]}; pass --size {height} {width}"
        )
