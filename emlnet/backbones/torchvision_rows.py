"""Backbones of torchvision, with its pretrained weights.

torchvision takes seconds to import, so it is imported at first use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from emlnet.backbones.feature_extractor import SequentialFeatureExtractor
from emlnet.backbones.row import Backbone

URL = "https://download.pytorch.org/models/"


def _plain(name: str) -> Any:
    import torchvision

    return torchvision.models.get_model(name, weights=None)


def _row(name: str, digest: str, **more: Any) -> Backbone:
    url = f"{URL}{name}-{digest}.pth"
    return Backbone(name=name, source="torchvision", url=url, licence="BSD-3-Clause", **more)


def _resnet(name: str, digest: str, channels: tuple[int, ...]) -> Backbone:
    """Return the row of a ResNet, tapped at its stem (before the pooling) and its four stages."""

    def build() -> nn.Module:
        layers = dict(_plain(name).named_children())
        del layers["avgpool"], layers["fc"]
        return SequentialFeatureExtractor(layers, ("relu", "layer1", "layer2", "layer3", "layer4"))

    return _row(name, digest, build=build, channels=channels)


def _features(
    name: str,
    digest: str,
    *,
    at: Sequence[str],
    rename: Callable[[str], str] = lambda key: key.removeprefix("features."),
    channels_last: bool = False,
    **more: Any,
) -> Backbone:
    """Return the row of a model that has its layers in `model.features`."""

    def build() -> nn.Module:
        layers = dict(_plain(name).features.named_children())
        names = list(layers)
        kept = names[: names.index(at[-1]) + 1]
        return SequentialFeatureExtractor({key: layers[key] for key in kept}, at, channels_last)

    return _row(name, digest, build=build, rename=rename, **more)


def _densenet_key(key: str) -> str:
    """Map a key of the released file, `norm.1`, to the model's, `norm1`."""
    key = key.removeprefix("features.")
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key)


ROWS = (
    _resnet("resnet18", "f37072fd", (64, 64, 128, 256, 512)),
    _resnet("resnet50", "11ad3fa6", (64, 256, 512, 1024, 2048)),
    _resnet("resnet101", "cd907fc2", (64, 256, 512, 1024, 2048)),
    _features(
        "densenet161",
        "8d451a50",
        at=("relu0", "denseblock1", "denseblock2", "denseblock3", "norm5"),
        channels=(96, 384, 768, 2112, 2208),
        rename=_densenet_key,
    ),
    _features(
        "convnext_tiny",
        "983f1562",
        at=("1", "3", "5", "7"),
        channels=(96, 192, 384, 768),
        reductions=(4, 8, 16, 32),
    ),
    _features(
        "convnext_base",
        "6075fbad",
        at=("1", "3", "5", "7"),
        channels=(128, 256, 512, 1024),
        reductions=(4, 8, 16, 32),
    ),
    _features(
        "efficientnet_v2_s",
        "dd5fe13b",
        at=("1", "2", "3", "5", "6"),
        channels=(24, 48, 64, 160, 256),
        size=(384, 384),
        head=("7.", "classifier."),
    ),
    _features(
        "swin_v2_t",
        "b137f0e2",
        at=("1", "3", "5", "7"),
        channels=(96, 192, 384, 768),
        reductions=(4, 8, 16, 32),
        size=(256, 256),
        head=("norm.", "head."),
        channels_last=True,
    ),
)
