"""Predict maps for pictures of any kind, at the pictures' own size."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from emlnet.data.images import check_proportions, read_picture, to_rgb, to_unit_range
from emlnet.data.maps import Kind, gaussian_blur, min_max, mirror_average, to_log_density
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder

Picture = Path | str | Image.Image | NDArray[Any] | Tensor
"""A path, a PIL image, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a tensor (H, W),
(1, H, W), (3, H, W) or (4, H, W).  Integers use the whole range of their type; floats are 0..1."""

EML_BLUR = 5.0
"""Sigma of the blur that EML-NET's authors apply to predictions, in pixels at 480 x 640."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one picture of H x W pixels.

    saliency: (H, W) float32; a density model's density, which sums to 1, or an `eml` model's
    sigmoid map in [0, 1].  log_density: (H, W) float32, natural log, exp sums to 1.
    kind: `density` or `eml`.
    """

    saliency: NDArray[np.float32]
    log_density: NDArray[np.float32]
    kind: Kind

    def values(self) -> NDArray[np.float32]:
        """Return the map (H, W) to draw, on one scale for pictures of all sizes.

        A density is given as a multiple of the uniform density; an `eml` map in 0..1 is blurred.
        """
        if self.kind == "density":
            return self.saliency * np.float32(self.saliency.size)
        sigma = EML_BLUR * math.sqrt(self.saliency.size / (480 * 640))
        maps = torch.from_numpy(self.saliency)[None, None]
        return gaussian_blur(maps, sigma, max(1, round(4 * sigma)), "replicate")[0, 0].numpy()

    def grey(self, top: float | None = None) -> NDArray[np.float32]:
        """Return the map (H, W) to draw in 0..1, scaled from its own range or from 0 to `top`."""
        values = self.values()
        if top is None:
            values = min_max(torch.from_numpy(values)[None, None])[0, 0].numpy()
        return values if top is None else (values / np.float32(top)).clip(0, 1)

    def picture(
        self, top: float | None = None, wide: bool = False
    ) -> NDArray[np.uint8 | np.uint16]:
        """Return `grey` as uint8 in 0..255, or if `wide` as uint16 in 0..65535."""
        white, dtype = (65535, np.uint16) if wide else (255, np.uint8)
        return (self.grey(top).astype(np.float64) * white).round().astype(dtype)


def bound_layer_cache() -> None:
    """Let oneDNN keep 64 compiled layers instead of 1024; call it before the first prediction.

    oneDNN compiles all layers for each size of picture.  Three encoders and 300 pictures of 100
    sizes took 1.06 to 1.12 GB with this limit.  Without it they took 1.26 to 1.40 GB, still rising,
    and were no faster.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


@torch.inference_mode()
def predict_output(
    model: EMLNet | Encoder, image: Tensor, flip: bool = False, half: bool = False
) -> Tensor:
    """Return the model's output (B, 1, H, W) for pictures (B, 3, H, W) in 0..1.

    flip: average with the output of the mirrored pictures.  half: backbones and readouts compute in
    16 bits (float16 on a GPU, bfloat16 on a CPU), heads and decoder in 32.  A batch that overflows
    16 bits is computed again in 32.
    """
    model.eval()
    output = _output(model, image, half)
    if flip:
        output = mirror_average(output, _output(model, image.flip(-1), half), model.kind)
    return output


def _output(model: EMLNet | Encoder, image: Tensor, half: bool) -> Tensor:
    if not half:
        answer: Tensor = model(image)
        return answer
    dtype = torch.float16 if image.device.type == "cuda" else torch.bfloat16
    size = (image.shape[-2], image.shape[-1])
    with torch.autocast(image.device.type, dtype):
        found = [model.readouts(image)] if isinstance(model, Encoder) else model.readouts(image)
    readouts = [[readout.float() for readout in of_encoder] for of_encoder in found]
    if not all(readout.isfinite().all() for of_encoder in readouts for readout in of_encoder):
        return _output(model, image, half=False)
    if isinstance(model, Encoder):
        answer = model.predict_map(readouts[0], size)
        return answer
    return model.decode(readouts, size)


def to_predictions(output: Tensor, kind: Kind) -> list[Prediction]:
    """Split a model's output (B, 1, H, W) into one prediction per picture."""
    saliency = (output.exp() if kind == "density" else output).float().cpu().numpy()
    log_density = to_log_density(output, kind).float().cpu().numpy()
    return [
        Prediction(saliency=saliency[row, 0], log_density=log_density[row, 0], kind=kind)
        for row in range(len(output))
    ]


def to_tensor(image: Picture) -> Tensor:
    """Convert a picture to (3, H, W) float32 RGB in 0..1.  Raises ValueError for anything else."""
    shapes = "an array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
    if isinstance(image, Tensor):
        shapes = "a tensor must be (H, W), (1, H, W), (3, H, W) or (4, H, W)"
        given = image.detach().cpu()
        pixels = (given.float() if given.dtype == torch.bfloat16 else given).numpy()
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    elif isinstance(image, str | Path):
        pixels = read_picture(Path(image))
    elif isinstance(image, Image.Image):
        pixels = to_rgb(image)
    else:
        pixels = np.asarray(image)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or channels not in (1, 3, 4) or not pixels.size:
        found = tuple(image.shape) if isinstance(image, Tensor) else pixels.shape
        more = "; a batch goes to predict_batch" if pixels.ndim == 4 else ""
        raise ValueError(f"{shapes}, found {found} {pixels.dtype}{more}")
    check_proportions(pixels.shape[1], pixels.shape[0])
    scaled = _unit_range(pixels).reshape(*pixels.shape[:2], channels)
    if channels == 4:
        scaled = scaled[..., :3] * scaled[..., 3:] + (1 - scaled[..., 3:])
    return torch.from_numpy(scaled).permute(2, 0, 1).expand(3, -1, -1).contiguous()


def _unit_range(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return pixels as float32 in 0..1: integers by `to_unit_range`, floats as they are."""
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if low >= 0 and high <= 1:
            return pixels.astype(np.float32)
        raise ValueError(f"floats must lie in 0..1, found {low:.4g} to {high:.4g}")
    if pixels.dtype not in (np.bool_, np.uint8, np.uint16):
        raise ValueError(
            f"pixels must be uint8, uint16, bool or floats in 0..1, found {pixels.dtype}"
        )
    return to_unit_range(pixels, "an array")
