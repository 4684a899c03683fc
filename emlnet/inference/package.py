"""What is shipped: a folder with model.json, weights.safetensors and a model card.

Only `emlnet` is needed to use it.

model = emlnet.load("folder")
prediction = model.predict("photo.jpg")
prediction.saliency        # (H, W) float32, at the photograph's size
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from emlnet.backbones import check_keys, read_state_dict
from emlnet.data.maps import Kind
from emlnet.inference.model_card import write_card
from emlnet.inference.predictor import (
    Picture,
    Prediction,
    predict_output,
    to_predictions,
    to_tensors,
)
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.precision import lay_out

FORMAT = 1
MODEL, WEIGHTS, CARD = "model.json", "weights.safetensors", "README.md"
FILES = (MODEL, WEIGHTS, CARD)
"""All that a packaged model can hold."""


@dataclass(kw_only=True)
class Package:
    """A model that predicts, and what is known of it.

    model: an EMLNet, or an Encoder alone.  about: what the folder's model.json says under `about`:
    scores, data, licence; anything JSON can hold.  half: compute backbones in 16 bits.
    """

    model: EMLNet | Encoder
    about: dict[str, Any] = field(default_factory=dict)
    half: bool = False

    @property
    def kind(self) -> Kind:
        """What the model answers."""
        return self.model.kind

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    @property
    def encoders(self) -> list[Encoder]:
        """The model's encoders; of an encoder, itself."""
        return [self.model] if isinstance(self.model, Encoder) else self.model._encoders()

    @property
    def licence(self) -> str:
        """Of the weights, as the folder's model.json says."""
        return licence_of(self.about)

    def predict(self, image: Picture, flip: bool = False) -> Prediction:
        """Where people look in a picture, at its own size.

        image: a path, a PIL image, an array or a tensor, see `Picture`.
        flip: average with the mirrored picture's map.
        """
        return self.predict_batch([image], flip)[0]

    def predict_batch(
        self, images: Sequence[Picture] | NDArray[Any] | Tensor, flip: bool = False
    ) -> list[Prediction]:
        """Where people look in each picture; those of one size are computed together.

        images: pictures of any sizes, or an array (B, H, W, 3) or tensor (B, 3, H, W).
        """
        tensors = to_tensors(images)
        rows: dict[torch.Size, list[int]] = {}
        for row, tensor in enumerate(tensors):
            rows.setdefault(tensor.shape, []).append(row)
        answers: dict[int, Prediction] = {}
        for chosen in rows.values():
            pixels = torch.stack([tensors[row] for row in chosen]).to(self.device)
            if self.device.type == "cpu":
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            output = predict_output(self.model, pixels, flip, self.half)
            answers |= zip(chosen, to_predictions(output, self.kind), strict=True)
        return [answers[row] for row in range(len(tensors))]


def save(folder: Path, model: EMLNet | Encoder, about: dict[str, Any] | None = None) -> Path:
    """Writes the model into a folder, whole or not at all; returns the folder.

    Raises ValueError when it holds anything but a packaged model, which it takes the place of.
    """
    check_target(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, temporary / WEIGHTS)
    described = describe(model)
    card = write_card(described["encoders"], model.kind, about or {})
    (temporary / CARD).write_text(card)
    # safetensors writes for the owner alone; a server or a colleague reads the model too.
    shutil.copymode(temporary / CARD, temporary / WEIGHTS)
    description = {
        "format": FORMAT,
        **described,
        "files": {name: file_digest(temporary / name) for name in (WEIGHTS, CARD)},
        "about": about or {},
    }
    (temporary / MODEL).write_text(json.dumps(description, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    return folder


def check_target(folder: Path) -> None:
    """Raises ValueError when a folder holds anything but a packaged model."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the model")
    others = {p.name for p in folder.iterdir()} - set(FILES) if folder.is_dir() else set()
    if others:
        raise ValueError(f"{folder} holds other files ({sorted(others)[0]}); name a new folder")


def describe(model: EMLNet | Encoder) -> dict[str, Any]:
    """What is needed to build the model anew, as JSON can hold it."""
    if isinstance(model, Encoder):
        return {"encoders": [asdict(model.config)], "decoder": None}
    encoders = [asdict(encoder.config) for encoder in model._encoders()]
    return {"encoders": encoders, "decoder": asdict(model.config)}


def load(folder: Path | str, device: torch.device | str = "cpu", half: bool = False) -> Package:
    """A model from its folder, in eval mode.

    device: where it computes.  half: backbones and readouts compute in 16 bits.

    Raises ValueError when the folder holds none, or its files are not those it names.
    """
    folder = Path(folder)
    description = read_description(folder)
    try:
        configs = [_encoder_config(given) for given in description["encoders"]]
        decoder = description["decoder"] and DecoderConfig(**description["decoder"])
        about = dict(description["about"])
        if not configs:
            raise ValueError("it names no encoder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / MODEL} is no description of a model: {error}") from error
    encoders = [Encoder(config, load_weights=False) for config in configs]
    model = EMLNet(encoders, decoder) if decoder else encoders[0]
    weights = read_state_dict(folder / WEIGHTS)
    check_keys(model.state_dict(), weights, str(folder / WEIGHTS))
    model.load_state_dict(weights)
    device = torch.device(device)
    model = lay_out(model, device) if device.type == "cpu" else model.to(device)
    return Package(model=model.eval(), about=about, half=half)


def licence_of(about: dict[str, Any]) -> str:
    """The licence that `about`, of a package or of its data, holds; `unknown` without one."""
    return str(about.get("licence") or "unknown")


def read_description(folder: Path) -> dict[str, Any]:
    """model.json of a folder, after the digests of its files were checked."""
    for name, digest in read_files(folder).items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing; pull the model again")
        if file_digest(folder / name) != digest:
            raise ValueError(
                f"{folder / name} is not the file that was saved; pull the model again"
            )
    description: dict[str, Any] = json.loads((folder / MODEL).read_text())
    return description


def read_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that the folder's model.json names: the weights, a card."""
    path = folder / MODEL
    if not path.is_file():
        raise ValueError(f"no model in {folder}: {MODEL} is missing; `emlnet pull` fetches one")
    try:
        description: dict[str, Any] = json.loads(path.read_text())
        version, files = description["format"], dict(description["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no description of a model: {error!r}") from error
    if version != FORMAT:
        raise ValueError(f"{path} has format {version}; this version of emlnet reads {FORMAT}")
    if set(files) not in ({WEIGHTS}, {WEIGHTS, CARD}):
        raise ValueError(f"{path} names files {sorted(files)}, expected {WEIGHTS} and {CARD}")
    if not all(isinstance(digest, str) for digest in files.values()):
        raise ValueError(f"{path} is no description of a model: a digest is no text")
    return files


def _encoder_config(given: dict[str, Any]) -> EncoderConfig:
    return EncoderConfig(**{**given, "size": tuple(given["size"])})


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
