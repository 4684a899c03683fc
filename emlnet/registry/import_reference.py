"""Package the checkpoints that EML-NET's authors released; their code is not used.

`res_imagenet.pth` and `res_places.pth` hold an encoder each: torchvision's ResNet-50 names,
`output0..4` and `combined`.  `res_decoder.pth` holds `img_model`, `pla_model` (for the readouts of
the first and the second encoder) and `combined`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from emlnet.backbones import check_keys, read_state_dict
from emlnet.inference import package
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig

SIZE = (480, 640)
"""Height and width in pixels at which the authors trained and predict."""
LICENCE = "none given: the authors' repository carries no licence"

# The authors' key prefixes, and ours.
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
    Raises ValueError naming a file that has other content or cannot be read without running code.
    """
    if len(files) not in (1, 3):
        raise ValueError(
            "expected one encoder's file, or ImageNet's encoder, Places365's encoder and the "
            f"decoder, in this order; found {len(files)} files"
        )
    if len(files) > 1 and "places" in files[0].name and "imagenet" in files[1].name:
        raise ValueError(
            f"{files[0].name} is given before {files[1].name}; the decoder reads ImageNet's first"
        )
    config = EncoderConfig(backbone="resnet50", readout="eml", size=size, weights="none")
    encoders = [Encoder(config) for _ in files[:2]]
    for encoder, path in zip(encoders, files, strict=False):
        _fill(encoder, path, ENCODER)
    model: EMLNet | Encoder = encoders[0]
    if len(files) > 1:
        model = EMLNet(encoders, DecoderConfig(readout="eml"))
        _fill(model.decoder, files[2], DECODER)
    about: dict[str, Any] = {
        "name": "EML-NET, weights of its authors" if len(files) > 1 else "encoder resnet50",
        "files": {path.name: package.file_digest(path) for path in files},
        "licence": LICENCE,
    }
    package.save(folder, model.eval(), about)
    return model


def _fill(module: nn.Module, path: Path, names: Mapping[str, str]) -> None:
    """Load a checkpoint with the authors' key names into a module; all keys must match."""

    def our_key(key: str) -> str:
        pattern = next((pattern for pattern in names if re.match(pattern, key)), "")
        return re.sub(f"^{pattern}", names.get(pattern, ""), key)

    given = {our_key(key): value for key, value in read_state_dict(path).items()}
    check_keys(module.state_dict(), given, f"{path}, read as EML-NET's {type(module).__name__}")
    module.load_state_dict(given, strict=False)
