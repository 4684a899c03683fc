"""What is shipped: a folder with model.json and weights.safetensors; only `emlnet` is needed.

model = emlnet.load("folder")
prediction = model.predict("photo.jpg")
prediction.saliency        # (H, W) float32, at the photograph's size
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from emlnet.backbones import check_keys, read_state_dict
from emlnet.decoder import DecoderConfig
from emlnet.encoder import Encoder, EncoderConfig
from emlnet.maps import Kind, gaussian_blur, min_max, mirror_average, to_log_density
from emlnet.model import EMLNet
from emlnet.picture import read_picture, to_rgb

FORMAT = 1
MODEL, WEIGHTS = "model.json", "weights.safetensors"
EML_BLUR = 5.0
"""Sigma of the blur that EML-NET's authors give their predictions, in pixels of 480 x 640."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Where people look in one picture of H x W pixels.

    saliency: (H, W) float32; a density model's density, which sums to 1, or an `eml` model's
    sigmoid map in [0, 1].  log_density: (H, W) float32, natural log, exp sums to 1.
    kind: `density` or `eml`.
    """

    saliency: NDArray[np.float32]
    log_density: NDArray[np.float32]
    kind: Kind

    def picture(self) -> NDArray[np.uint8]:
        """(H, W) uint8: the map min-max to 0..255; an `eml` map is blurred first."""
        maps = torch.from_numpy(self.saliency)[None, None]
        if self.kind == "eml":
            sigma = EML_BLUR * math.sqrt(self.saliency.size / (480 * 640))
            maps = gaussian_blur(maps, sigma, max(1, round(4 * sigma)), "replicate")
        picture: NDArray[np.uint8] = (min_max(maps)[0, 0] * 255).round().byte().numpy()
        return picture


@dataclass(kw_only=True)
class Package:
    """A model that predicts, and what is known of it.

    model: an EMLNet, or an Encoder alone.  about: what the folder's model.json says under `about`:
    scores, data, licence; anything JSON can hold.
    """

    model: EMLNet | Encoder
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What the model answers."""
        return self.model.kind

    @property
    def encoders(self) -> list[Encoder]:
        """The model's encoders; of an encoder, itself."""
        return [self.model] if isinstance(self.model, Encoder) else self.model._encoders()

    def predict(
        self, image: Path | str | Image.Image | NDArray[np.uint8] | Tensor, flip: bool = False
    ) -> Prediction:
        """Where people look in a picture.

        image: a path, a PIL image, (H, W, 3) or (H, W) uint8, or a tensor (3, H, W) in 0..1.
        flip: average with the mirrored picture's map.
        """
        pixels = to_tensor(image)[None].to(next(self.model.parameters()).device)
        output = predict_output(self.model, pixels, flip)
        saliency = output.exp() if self.kind == "density" else output
        return Prediction(
            saliency=saliency[0, 0].cpu().numpy(),
            log_density=to_log_density(output, self.kind)[0, 0].cpu().numpy(),
            kind=self.kind,
        )


@torch.inference_mode()
def predict_output(model: EMLNet | Encoder, image: Tensor, flip: bool = False) -> Tensor:
    """The model's output (B, 1, H, W) for (B, 3, H, W) in 0..1.

    flip: average with the mirrored picture's.
    """
    model.eval()
    output: Tensor = model(image)
    if flip:
        output = mirror_average(output, model(image.flip(-1)), model.kind)
    return output


def to_tensor(image: Path | str | Image.Image | NDArray[np.uint8] | Tensor) -> Tensor:
    """(3, H, W) float32 RGB in 0..1.  Raises ValueError for what is no picture."""
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(
                f"a tensor is (3, H, W) float in 0..1, found {tuple(image.shape)} {image.dtype}"
            )
        return image.float()
    if isinstance(image, str | Path):
        image = read_picture(Path(image))
    elif isinstance(image, Image.Image):
        image = to_rgb(image)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"an array must be (H, W, 3) or (H, W) uint8, found {image.shape} {image.dtype}"
        )
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255


def save(folder: Path, model: EMLNet | Encoder, about: dict[str, Any] | None = None) -> Path:
    """Writes the model into a new folder, whole or not at all; returns the folder."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, temporary / WEIGHTS)
    description = {
        "format": FORMAT,
        **describe(model),
        "files": {WEIGHTS: file_digest(temporary / WEIGHTS)},
        "about": about or {},
    }
    (temporary / MODEL).write_text(json.dumps(description, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    return folder


def describe(model: EMLNet | Encoder) -> dict[str, Any]:
    """What is needed to build the model anew, as JSON can hold it."""
    if isinstance(model, Encoder):
        return {"encoders": [asdict(model.config)], "decoder": None}
    encoders = [asdict(encoder.config) for encoder in model._encoders()]
    return {"encoders": encoders, "decoder": asdict(model.config)}


def load(folder: Path | str, device: torch.device | str = "cpu") -> Package:
    """A model from its folder, in eval mode.

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
    return Package(model=model.eval().to(device), about=about)


def read_description(folder: Path) -> dict[str, Any]:
    """model.json of a folder, after the digests of its files were checked."""
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
    if set(files) != {WEIGHTS}:
        raise ValueError(f"{path} names files {sorted(files)}, expected {WEIGHTS} alone")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder / WEIGHTS} is missing; pull the model again")
    if file_digest(folder / WEIGHTS) != files[WEIGHTS]:
        raise ValueError(f"{folder / WEIGHTS} is not the file that was saved; pull the model again")
    return description


def _encoder_config(given: dict[str, Any]) -> EncoderConfig:
    return EncoderConfig(**{**given, "size": tuple(given["size"])})


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
