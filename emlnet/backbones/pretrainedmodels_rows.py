"""Backbones of the package `pretrainedmodels`.

Its last release, 0.7.4 of 2019, is pinned.  Only five of its network classes are used; they run on
current PyTorch.  `emlnet.backbones.weights` loads their weights.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from emlnet.backbones.feature_extractor import FeatureExtractor, SequentialFeatureExtractor
from emlnet.backbones.row import Backbone
from emlnet.extras import require_extra

URL = "http://data.lip6.fr/cadene/pretrainedmodels/"
HALF = (0.5, 0.5, 0.5)
HEAD = ("last_linear.",)


def _plain(name: str) -> Any:
    """Return the package's model with random weights; imports the package at first use."""
    require_extra("pretrainedmodels", "pretrainedmodels")
    # The import creates layers, which would advance the caller's random state.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # Python warns that dpn.py compares literals with `is`; this works.
        warnings.simplefilter("ignore", SyntaxWarning)
        import pretrainedmodels
    return getattr(pretrainedmodels, name)(num_classes=1000, pretrained=None)


class NASNetFeatureExtractor(FeatureExtractor):
    """NASNet-A-Large, tapped as in EML-NET.

    Taps: cell_stem_1, reduction_cell_0, reduction_cell_1 and cell_17.  Each cell takes the outputs
    of the two cells before it.
    """

    def __init__(self) -> None:
        super().__init__()
        for name, layer in _plain("nasnetalarge").named_children():
            if name.startswith(("conv0", "cell", "reduction")):
                self.add_module(name, layer)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return four feature maps, at 1/8, 1/16, 1/32 and 1/32 of the images' size."""
        layers = dict(self.named_children())
        stem = self.run(layers.pop("conv0"), image)
        before = self.run(layers.pop("cell_stem_0"), stem)
        latest = self.run(layers.pop("cell_stem_1"), stem, before)
        taps = [latest]
        for name, cell in layers.items():
            if name.startswith("reduction"):
                latest = self.run(cell, latest, before)
                taps.append(latest)
            else:
                latest, before = self.run(cell, latest, before), latest
        return [*taps, latest]


class PNASNetFeatureExtractor(FeatureExtractor):
    """PNASNet-5-Large, tapped at its stem, before each reduction and at its end."""

    def __init__(self) -> None:
        super().__init__()
        for name, layer in _plain("pnasnet5large").named_children():
            if name.startswith(("conv_0", "cell")):
                self.add_module(name, layer)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return five feature maps, at 1/2, 1/4, 1/8, 1/16 and 1/32 of the images' size."""
        layers = dict(self.named_children())
        before = self.run(layers.pop("conv_0"), image)
        latest = self.run(layers.pop("cell_stem_0"), before)
        taps = [before, latest]
        for name, cell in layers.items():
            before, latest = latest, self.run(cell, before, latest)
            if name in ("cell_3", "cell_7", "cell_11"):
                taps.append(latest)
        return taps


def _senet(name: str) -> nn.Module:
    """Return a network tapped at its stem (before the pooling) and its four stages."""
    model = _plain(name)
    *stem, pool = model.layer0.named_children()
    layers = {
        "layer0": nn.Sequential(OrderedDict(stem)),
        "pool": pool[1],
        **{f"layer{n}": getattr(model, f"layer{n}") for n in range(1, 5)},
    }
    return SequentialFeatureExtractor(layers, ("layer0", "layer1", "layer2", "layer3", "layer4"))


def _dpn(name: str, at: Sequence[str]) -> nn.Module:
    """Return a network tapped at its stem, the last block of each stage and the last activation."""
    layers = dict(_plain(name).features.named_children())
    *stem, pool = layers.pop("conv1_1").named_children()
    stem_layers = nn.Sequential(OrderedDict(stem))
    return SequentialFeatureExtractor({"conv1_1": stem_layers, "pool": pool[1], **layers}, at)


def _row(name: str, file: str, **more: Any) -> Backbone:
    return Backbone(name=name, source="pretrainedmodels", url=URL + file, **{"head": HEAD, **more})


ROWS = (
    _row(
        "nasnetalarge",
        "nasnetalarge-a1897284.pth",
        build=NASNetFeatureExtractor,
        channels=(336, 1344, 2688, 4032),
        reductions=(8, 16, 32, 32),
        mean=HALF,
        std=HALF,
        size=(331, 331),
        licence="Apache-2.0",
        eml_kernel=1,
    ),
    _row(
        "pnasnet5large",
        "pnasnet5large-bf079911.pth",
        build=PNASNetFeatureExtractor,
        channels=(96, 270, 1080, 2160, 4320),
        mean=HALF,
        std=HALF,
        size=(331, 331),
        licence="Apache-2.0",
    ),
    _row(
        "se_resnext50_32x4d",
        "se_resnext50_32x4d-a260b3a4.pth",
        build=lambda: _senet("se_resnext50_32x4d"),
        channels=(64, 256, 512, 1024, 2048),
    ),
    _row(
        "senet154",
        "senet154-c7b49a05.pth",
        build=lambda: _senet("senet154"),
        channels=(128, 256, 512, 1024, 2048),
    ),
    _row(
        "dpn92",
        "dpn92_extra-fda993c95.pth",
        build=lambda: _dpn("dpn92", ("conv1_1", "conv2_3", "conv3_4", "conv4_20", "conv5_bn_ac")),
        channels=(64, 336, 704, 1552, 2688),
        mean=(124 / 255, 117 / 255, 104 / 255),
        std=(1 / (0.0167 * 255),) * 3,
        rename=lambda key: key.removeprefix("features."),
    ),
)
