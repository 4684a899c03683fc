"""One row of the table of backbones, the same for every library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


Rename = Callable[[str], str]
"""A key of a library's checkpoint to the network's."""


def same_key(key: str) -> str:
    """The key as it is."""
    return key


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One row of the table.

    build: makes the network with random weights; called on (B, 3, H, W) it returns the tapped
    feature maps, one per entry of `channels`, each (B, channels, H / reduction, W / reduction).
    mean, std: how its pretraining scaled pixels of 0..1.  size: (H, W) that it was pretrained at.
    multiple: what height and width must be divisible by.  only_size: whether it takes no other
    size than `size`.
    package: the Python package that ships ImageNet weights, empty when none does.
    url: the file of weights that its library downloads, empty when there is none.
    file: what that file is called here; default: as in the url.
    rename: a checkpoint's key as the network's.  head: prefixes of keys, renamed, that lie after
    the last tap (the classifier), which a checkpoint may carry and which are dropped.
    licence: of the packaged or downloaded weights, empty when unknown.
    eml_kernel: of the paper's readouts: 3 with ReLU and nearest neighbours (ResNet-50), 1 with
    sigmoid and bilinear (NASNet).
    """

    name: str
    build: Callable[[], nn.Module]
    channels: tuple[int, ...]
    reductions: tuple[int, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    size: tuple[int, int] = (224, 224)
    multiple: int = 1
    only_size: bool = False
    source: str = ""
    package: str = ""
    url: str = ""
    file: str = ""
    rename: Rename = same_key
    head: tuple[str, ...] = ("fc.", "classifier.")
    licence: str = ""
    eml_kernel: int = 3

    @property
    def step(self) -> int:
        """Pixels in whose multiples heights and widths are chosen: 8, or a transformer's patch."""
        return self.multiple if 8 % self.multiple else 8

    def check_size(self, size: tuple[int, int]) -> None:
        """Raises ValueError, with the nearest size that fits, for one the network cannot take."""
        if self.only_size and size != self.size:
            raise ValueError(
                f"{self.name} takes pictures of {self.size[0]} x {self.size[1]} pixels alone, "
                f"not {size[0]} x {size[1]}; pass --size {self.size[0]} {self.size[1]}"
            )
        if any(side % self.multiple for side in size):
            height, width = (max(1, round(s / self.multiple)) * self.multiple for s in size)
            raise ValueError(
                f"{self.name} takes heights and widths divisible by {self.multiple}, "
                f"not {size[0]} x {size[1]}; the nearest is --size {height} {width}"
            )
