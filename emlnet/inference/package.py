"""What is shipped: a folder with model.json, weights.safetensors and a model card.

Only `emlnet` is needed to use it:

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
from typing import Any, TypeVar, get_args

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
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
    to_tensors,
)
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.precision import to_channels_last

FORMAT = 1
MODEL, WEIGHTS, CARD = "model.json", "weights.safetensors", "README.md"
FILES = (MODEL, WEIGHTS, CARD)
"""All that a packaged model can hold."""
MAX_TEXT, MAX_WEIGHTS = 16 * 2**20, 8 * 2**30
"""Bytes of the largest model.json or card, and of the largest weights, that are read."""
MAX_ENCODERS = 32
BOUNDS = {"size": (32, 4096), "readout_width": (1, 4096), "width": (1, 4096)}
"""Least and greatest value of the numbers in a model.json."""
JSON_NAMES = {
    dict: "an object", list: "a list", str: "a text", int: "a whole number", bool: "true or false",
}  # fmt: skip

Config = TypeVar("Config", EncoderConfig, DecoderConfig)
Value = TypeVar("Value")


@dataclass(kw_only=True)
class Package:
    """A model that predicts, and what is known of it.

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
        """The model's encoders; a single encoder is its own."""
        return [self.model] if isinstance(self.model, Encoder) else self.model.encoder_list

    @property
    def licence(self) -> str:
        """The licence of the weights, by model.json."""
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
        """Predict where people look in each picture; those of one size are computed together.

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


@dataclass(frozen=True, kw_only=True)
class Description:
    """The content of a model.json.

    decoder: None for an encoder by itself.  files: SHA-256 by name.  sizes: bytes by name, of the
    files that have one (packages of earlier versions have none).  about: name, scores, data, ...
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


def save(folder: Path, model: EMLNet | Encoder, about: dict[str, Any] | None = None) -> Path:
    """Write a packaged model, whole or not at all, and return its folder.

    It replaces an earlier package.  Raises ValueError when the folder holds anything else.
    """
    check_target(folder)
    with replace_folder(folder) as new:
        weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(weights, new / WEIGHTS)
        described = describe(model)
        (new / CARD).write_text(write_card(described["encoders"], model.kind, about or {}))
        # safetensors writes for the owner only; a server or a colleague reads the model too.
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
    """Return what is needed to build the model again, as JSON can hold it."""
    if isinstance(model, Encoder):
        return {"encoders": [asdict(model.config)], "decoder": None}
    encoders = [asdict(encoder.config) for encoder in model.encoder_list]
    return {"encoders": encoders, "decoder": asdict(model.config)}


def load(folder: Path | str, device: torch.device | str = "cpu", half: bool = False) -> Package:
    """Return the model of a folder, in eval mode.

    device: where it computes.  half: backbones and readouts compute in 16 bits.

    The folder is not trusted: nothing is unpickled, and no memory is taken before the weights'
    names and shapes are those of the described model.  Raises ValueError when they are not, when
    the folder holds no model, or when a file is not the one that was saved.
    """
    folder = Path(folder)
    description = read_description(folder)
    _check_files(folder, description.files)
    path = folder / WEIGHTS
    with torch.device("meta"):
        expected = description.build().state_dict()
    check_keys(expected, _read_shapes(path), str(path))
    model = description.build()
    model.load_state_dict({**model.state_dict(), **read_state_dict(path)})
    device = torch.device(device)
    model = to_channels_last(model, device) if device.type == "cpu" else model.to(device)
    return Package(model=model.eval(), about=description.about, half=half)


def _read_shapes(path: Path) -> dict[str, Tensor]:
    """Return tensors of a safetensors file by name, without their values."""
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def licence_of(about: dict[str, Any]) -> str:
    """Return the licence in `about`, of a package or of its data; `unknown` without one."""
    return str(about.get("licence") or "unknown")


def _check_files(folder: Path, files: dict[str, str]) -> None:
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing; pull the model again")
        if file_digest(folder / name) != digest:
            raise ValueError(
                f"{folder / name} is not the file that was saved; pull the model again"
            )


def read_description(folder: Path) -> Description:
    """Parse the model.json of a folder; the other files are not looked at."""
    path = folder / MODEL
    if not path.is_file():
        raise ValueError(f"no model in {folder}: {MODEL} is missing; `emlnet pull` fetches one")
    return parse_description(path.read_bytes(), str(path))


def parse_description(text: bytes, name: str) -> Description:
    """Parse a model.json and check every field.

    Raises ValueError that starts with `name`: one sentence on the field that is wrong.
    """
    try:
        given = _expect(dict, json.loads(text), "it")
        if given.get("format") != FORMAT:
            raise ValueError(
                f"its format is {_short(given.get('format'))}, and this version reads {FORMAT}"
            )
        encoders = _expect(list, given.get("encoders"), "encoders")
        if not 1 <= len(encoders) <= MAX_ENCODERS:
            raise ValueError(f"it has {len(encoders)} encoders, expected 1 to {MAX_ENCODERS}")
        decoder = given.get("decoder")
        if decoder is None and len(encoders) > 1:
            raise ValueError(f"it has {len(encoders)} encoders and no decoder")
        files = _expect(dict, given.get("files"), "files")
        if set(files) not in ({WEIGHTS}, {WEIGHTS, CARD}):
            raise ValueError(f"it names files {sorted(files)}, expected {WEIGHTS} and {CARD}")
        return Description(
            encoders=tuple(
                _parse_config(EncoderConfig, config, f"encoders[{number}]")
                for number, config in enumerate(encoders)
            ),
            decoder=None if decoder is None else _parse_config(DecoderConfig, decoder, "decoder"),
            files={name: _expect(str, digest, f"files.{name}") for name, digest in files.items()},
            sizes=_parse_sizes(given.get("sizes", {})),
            about=_parse_about(given.get("about")),
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} does not describe a model: {error}") from error


def _parse_config(kind: type[Config], given: Any, where: str) -> Config:
    """Return a config from JSON; its fields have the types of the defaults, within BOUNDS."""
    default, values = kind(), {}
    for name, value in _expect(dict, given, where).items():
        place = f"{where}.{name}"
        if not hasattr(default, name):
            raise ValueError(f"{place} is not known to this version of emlnet")
        if name == "size":
            sides = _expect(list, value, place)
            value = tuple(_parse_number(side, place, BOUNDS[name]) for side in sides)
            if len(value) != 2:
                raise ValueError(f"{place} has {len(value)} numbers, expected height and width")
        elif name in BOUNDS:
            value = _parse_number(value, place, BOUNDS[name])
        elif name == "readout" and value not in get_args(Kind):
            raise ValueError(f"{place} is {_short(value)}, expected {' or '.join(get_args(Kind))}")
        values[name] = (
            value if name == "size" else _expect(type(getattr(default, name)), value, place)
        )
    return kind(**values)


def _parse_sizes(given: Any) -> dict[str, int]:
    limits = {WEIGHTS: (1, MAX_WEIGHTS), CARD: (0, MAX_TEXT)}
    return {
        name: _parse_number(size, f"sizes.{name}", limits[name])
        for name, size in _expect(dict, given, "sizes").items()
        if name in limits
    }


def _parse_about(given: Any) -> dict[str, Any]:
    about: dict[str, Any] = _expect(dict, given, "about")
    for name in ("data", "scores"):
        _expect(dict, about.get(name) or {}, f"about.{name}")
    for name, score in (about.get("scores") or {}).items():
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise ValueError(f"about.scores.{name} is {_short(score)}, expected a number")
    return about


def _parse_number(value: Any, where: str, bounds: tuple[int, int]) -> int:
    low, high = bounds
    if not low <= (number := _expect(int, value, where)) <= high:
        raise ValueError(f"{where} is {_short(value)}, expected {low} to {high}")
    return number


def _expect(kind: type[Value], value: Any, where: str) -> Value:
    """Return a value of JSON that must be of exactly this type."""
    if type(value) is not kind:
        raise ValueError(f"{where} is {_short(value)}, expected {JSON_NAMES[kind]}")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
