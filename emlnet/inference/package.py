"""Packaged models: a folder with model.json, weights.safetensors and a model card.

Only `emlnet` is needed to use one:

model = emlnet.load("folder")
prediction = model.predict("photo.jpg")
prediction.saliency        # (H, W) float32, at the photograph's size
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from emlnet.atomic_files import replace_folder
from emlnet.backbones import check_keys, read_state_dict
from emlnet.data.maps import Kind
from emlnet.inference.model_card import write_card
from emlnet.inference.predictor import (
    Picture,
    Prediction,
    predict_output,
    to_predictions,
    to_tensor,
)
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.precision import to_channels_last

FORMAT = 1
MODEL, WEIGHTS, CARD = "model.json", "weights.safetensors", "README.md"
FILES = (MODEL, WEIGHTS, CARD)
"""All files that a packaged model may have."""
MAX_TEXT, MAX_WEIGHTS = 16 * 2**20, 8 * 2**30
"""Largest size in bytes: of model.json or the card; of the weights."""
MAX_ENCODERS = 32
BUILTIN = "builtin"
"""The source of the model that comes with emlnet."""
BUILTIN_FOLDER = Path(__file__).with_name(BUILTIN)
EXAMPLE = {
    "format": FORMAT,
    "encoders": [{**asdict(EncoderConfig()), "size": [480, 640]}],
    "decoder": asdict(DecoderConfig()),
    "files": {WEIGHTS: "SHA-256", CARD: "SHA-256"},
    "sizes": {WEIGHTS: 1, CARD: 1},
    "about": {},
}
"""A model.json that defines the types of all fields."""
ALLOWED: dict[str, Sequence[Any]] = {
    "format": [FORMAT],
    "encoders.readout": get_args(Kind),
    "encoders.size": range(32, 4097),
    "encoders.readout_width": range(1, 4097),
    "decoder.readout": get_args(Kind),
    "decoder.width": range(1, 4097),
    f"sizes.{WEIGHTS}": range(1, MAX_WEIGHTS + 1),
    f"sizes.{CARD}": range(MAX_TEXT + 1),
}
"""Allowed values of some fields."""
JSON_NAMES = {
    dict: "an object", list: "a list", str: "a text", int: "a whole number", bool: "true or false"
}  # fmt: skip


@dataclass(kw_only=True)
class Package:
    """A model that predicts, with its description.

    model: an EMLNet, or a single Encoder.  about: the `about` of model.json: scores, data, licence;
    anything that JSON can hold.  half: compute backbones in 16 bits.
    """

    model: EMLNet | Encoder
    about: dict[str, Any] = field(default_factory=dict)
    half: bool = False

    @property
    def kind(self) -> Kind:
        """The kind of map that the model returns."""
        return self.model.kind

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return next(self.model.parameters()).device

    @property
    def encoders(self) -> list[Encoder]:
        """The model's encoders; a single encoder is returned in a list."""
        return [self.model] if isinstance(self.model, Encoder) else self.model.encoder_list

    @property
    def licence(self) -> str:
        """The licence of the weights, as model.json states it."""
        return licence_of(self.about)

    def predict(self, image: Picture, flip: bool = False) -> Prediction:
        """Predict where people look in a picture, at its own size.

        image: a path, a PIL image, an array or a tensor, see `Picture`.
        flip: average with the mirrored picture's map.
        """
        return self.predict_batch([image], flip)[0]

    def predict_batch(
        self, images: Sequence[Picture] | NDArray[Any] | Tensor, flip: bool = False
    ) -> list[Prediction]:
        """Predict where people look in each picture; equally sized ones are computed together.

        images: pictures of any sizes, or an array (B, H, W, 3) or tensor (B, 3, H, W).
        """
        tensors = [to_tensor(image) for image in images]
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


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of a model.json.

    decoder: None for a single encoder.  files: SHA-256 by name.  sizes: bytes by name; empty in
    packages of earlier versions.  about: name, scores, data, ...
    """

    encoders: tuple[EncoderConfig, ...]
    decoder: DecoderConfig | None
    files: dict[str, str]
    sizes: dict[str, int]
    about: dict[str, Any]

    def build(self) -> EMLNet | Encoder:
        """Return the model with random weights."""
        encoders = [Encoder(config, load_weights=False) for config in self.encoders]
        return EMLNet(encoders, self.decoder) if self.decoder else encoders[0]


def save(
    folder: Path, model: EMLNet | Encoder, about: dict[str, Any] | None = None, half: bool = False
) -> Path:
    """Write a packaged model, whole or not at all, and return its folder.

    half: store the weights in 16 bits; they are loaded into 32.
    Replaces an earlier package.  Raises ValueError if the folder holds anything else.
    """
    check_target(folder)
    with replace_folder(folder) as new:
        weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        if half:
            weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        save_file(weights, new / WEIGHTS)
        described, digest = describe(model), file_digest(new / WEIGHTS)
        (new / CARD).write_text(write_card(described["encoders"], model.kind, about or {}, digest))
        # safetensors makes the file readable by its owner only; others need it, too.
        shutil.copymode(new / CARD, new / WEIGHTS)
        description = {
            "format": FORMAT,
            **described,
            "files": {name: file_digest(new / name) for name in (WEIGHTS, CARD)},
            "sizes": {name: (new / name).stat().st_size for name in (WEIGHTS, CARD)},
            "about": about or {},
        }
        (new / MODEL).write_text(json.dumps(description, indent=1))
    return folder


def check_target(folder: Path) -> None:
    """Raise ValueError when a folder holds anything but a packaged model."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the model")
    others = {p.name for p in folder.iterdir()} - set(FILES) if folder.is_dir() else set()
    if others:
        raise ValueError(f"{folder} holds other files ({sorted(others)[0]}); name a new folder")


def describe(model: EMLNet | Encoder) -> dict[str, Any]:
    """Return the configuration from which the model can be built again, for JSON."""
    if isinstance(model, Encoder):
        return {"encoders": [asdict(model.config)], "decoder": None}
    encoders = [asdict(encoder.config) for encoder in model.encoder_list]
    return {"encoders": encoders, "decoder": asdict(model.config)}


def load(folder: Path | str, device: torch.device | str = "cpu", half: bool = False) -> Package:
    """Load the model of a folder, in eval mode.

    device: where it computes.  half: backbones and readouts compute in 16 bits.
    The folder is not trusted: nothing is unpickled, and the names and shapes of the weights are
    checked before memory for the model is allocated.  Raises ValueError if they do not match, the
    folder holds no model, or a file has changed.
    """
    folder = Path(folder)
    description = read_description(folder)
    for name, digest in description.files.items():
        path = folder / name
        if not path.is_file() or file_digest(path) != digest:
            problem = "has changed since it was saved" if path.is_file() else "is missing"
            raise ValueError(f"{path} {problem}; pull the model again")
    path = folder / WEIGHTS
    with torch.device("meta"):
        expected = description.build().state_dict()
    weights = read_state_dict(path)
    check_keys(expected, weights, str(path))
    model = description.build()
    model.load_state_dict(weights, strict=False)  # check_keys is as strict, with a shorter message.
    device = torch.device(device)
    model = to_channels_last(model, device) if device.type == "cpu" else model.to(device)
    return Package(model=model.eval(), about=description.about, half=half)


def licence_of(about: dict[str, Any]) -> str:
    """Return the licence in `about`, of a package or of its data; `unknown` without one."""
    return str(about.get("licence") or "unknown")


def read_description(folder: Path) -> Description:
    """Parse the model.json of a folder; does not read the other files."""
    path = folder / MODEL
    if not path.is_file():
        raise ValueError(f"no model in {folder}: {MODEL} is missing; `emlnet pull` fetches one")
    return parse_description(path.read_bytes(), str(path))


def parse_description(text: bytes, name: str) -> Description:
    """Parse a model.json and check every field.

    Raises ValueError that starts with `name` and names the wrong field.
    """
    try:
        given = json.loads(text)
        _check_like({}, given, "it")
        given = {**dict.fromkeys(EXAMPLE), "sizes": {}, **given}
        single = given["decoder"] is None
        _check_like(EXAMPLE, {k: v for k, v in given.items() if k != "decoder" or not single})
        encoders, files, about = given["encoders"], given["files"], given["about"]
        if not 1 <= len(encoders) <= (1 if single else MAX_ENCODERS):
            expected = "1 without a decoder" if single else f"1 to {MAX_ENCODERS}"
            raise ValueError(f"it has {len(encoders)} encoders, expected {expected}")
        if WEIGHTS not in files:
            raise ValueError(f"it names files {sorted(files)}, expected {WEIGHTS} and {CARD}")
        for key in ("data", "scores"):
            _check_like({}, about.get(key) or {}, f"about.{key}")
        for key, score in (about.get("scores") or {}).items():
            if isinstance(score, bool) or not isinstance(score, int | float):
                raise ValueError(f"about.scores.{key} is {_short(score)}, expected a number")
        configs: list[dict[str, Any]] = [{"size": EncoderConfig().size, **e} for e in encoders]
        return Description(
            encoders=tuple(EncoderConfig(**{**c, "size": tuple(c["size"])}) for c in configs),
            decoder=None if single else DecoderConfig(**given["decoder"]),
            files=files,
            sizes=given["sizes"],
            about=about,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} does not describe a model: {error}") from error


def _check_like(example: Any, value: Any, where: str = "") -> None:
    """Raise ValueError unless a JSON value has the types of an example.

    An object may have only the example's fields, or any fields if the example is empty.  A list
    must have the example's length, or any length if the example has one element.
    """
    if type(value) is not type(example):
        raise ValueError(f"{where} is {_short(value)}, expected {JSON_NAMES[type(example)]}")
    allowed = ALLOWED.get(re.sub(r"\[\d+\]", "", where))
    if allowed is not None and value not in allowed and not isinstance(value, list):
        is_range = isinstance(allowed, range)
        words = f"{allowed[0]} to {allowed[-1]}" if is_range else " or ".join(map(str, allowed))
        raise ValueError(f"{where} is {_short(value)}, expected {words}")
    if isinstance(value, list):
        if len(value) != len(example) > 1:
            raise ValueError(f"{where} has {len(value)} items, expected {len(example)}")
        for number, item in enumerate(value):
            _check_like(example[0], item, f"{where}[{number}]")
    elif isinstance(value, dict) and example:
        for name, item in value.items():
            place = f"{where}.{name}".removeprefix(".")
            if name not in example:
                raise ValueError(f"{place} is not known to this version of emlnet")
            _check_like(example[name], item, place)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
