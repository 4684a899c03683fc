"""Package the checkpoints that EML-NET's authors released; their code is not used.

`res_imagenet.pth`, `res_places.pth`: an encoder each, torchvision's ResNet-50 names, `output0..4`
and `combined`.  `res_decoder.pth`: `img_model`, `pla_model` (for the readouts of the first and the
second encoder) and `combined`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from emlnet.backbones import check_keys, read_state_dict
from emlnet.inference import package
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig

SIZE = (480, 640)
"""Height and width in pixels at which the authors trained and predict."""
LICENCE = "none given: the authors' repository carries no licence"

# The authors' prefixes of keys, and ours.
ENCODER = {r"output(\d+)\.": r"readout.\1.", r"combined\.": "head.combine.", "": "backbone."}
DECODER = {
    r"img_model\.(\d+)\.": r"refine.0.\1.",
    r"pla_model\.(\d+)\.": r"refine.1.\1.",
    r"combined\.": "combine.",
}


def import_reference(
    files: Sequence[Path], folder: Path, size: tuple[int, int] = SIZE
) -> EMLNet | Encoder:
    """Package the authors' checkpoints into a folder, and return the model.

    files: one encoder; or the two encoders, ImageNet's first, and the decoder.
    size: (H, W) in pixels at which the encoders see pictures.
    Raises ValueError that names the file when it has other content, or cannot be read without
    running code.
    """
    states = [read_state_dict(path) for path in files]
    kinds = [_kind(path, state) for path, state in zip(files, states, strict=True)]
    if kinds not in (["encoder"], ["encoder", "encoder", "decoder"]):
        found = ", ".join(f"{path.name} ({kind})" for path, kind in zip(files, kinds, strict=True))
        raise ValueError(
            "expected one encoder's file, or ImageNet's encoder, Places365's encoder and the "
            f"decoder, in this order; found {found}"
        )
    if len(files) > 1 and "places" in files[0].name and "imagenet" in files[1].name:
        raise ValueError(
            f"{files[0].name} is given before {files[1].name}; the decoder reads ImageNet's first"
        )
    config = EncoderConfig(backbone="resnet50", readout="eml", size=size, weights="none")
    encoders = []
    for path, state, kind in zip(files, states, kinds, strict=True):
        if kind == "encoder":
            encoder = Encoder(config)
            _fill(encoder, state, ENCODER, path)
            encoders.append(encoder)
    model: EMLNet | Encoder = encoders[0]
    if len(files) > 1:
        model = EMLNet(encoders, DecoderConfig(readout="eml"))
        _fill(model.decoder, states[-1], DECODER, files[-1])
    about: dict[str, Any] = {
        "name": "EML-NET, weights of its authors" if len(files) > 1 else "encoder resnet50",
        "files": {path.name: package.file_digest(path) for path in files},
        "licence": LICENCE,
    }
    package.save(folder, model.eval(), about)
    return model


def _kind(path: Path, state: Mapping[str, Tensor]) -> str:
    """Return `encoder` or `decoder`.  Raises ValueError for any other checkpoint."""
    if "img_model.0.0.weight" in state:
        return "decoder"
    if "output0.0.weight" in state:
        return "encoder"
    begins = ", ".join(list(state)[:3])
    hint = ""
    if "layer1.0.conv1.weight" in state:
        hint = "; it is a ResNet before finetuning: pass it to a training command as --weights"
    raise ValueError(f"{path} is not one of EML-NET's checkpoints (its keys: {begins}, ...){hint}")


def _fill(
    module: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str], path: Path
) -> None:
    """Load every key of a state under the authors' names into a module."""
    own = module.state_dict()
    given = {_our_key(key, names): value for key, value in state.items()}
    check_keys(own, given, str(path))
    module.load_state_dict({**own, **given})


def _our_key(key: str, names: Mapping[str, str]) -> str:
    for pattern, ours in names.items():
        if re.match(pattern, key):
            return re.sub(f"^{pattern}", ours, key)
    return key
