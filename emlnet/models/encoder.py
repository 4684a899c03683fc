"""Encoders: a backbone with a one-channel readout per tapped layer, and a head that joins these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emlnet.backbones import build_backbone, find_backbone
from emlnet.data.framing import letterbox, unletterbox
from emlnet.data.maps import Kind, gaussian_blur, log_softmax, resize
from emlnet.models.precision import full_precision, to_float32
from emlnet.models.saliency_network import SaliencyNetwork


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """An encoder's architecture and initial weights."""

    backbone: str = "efficientnet_lite0"
    """Name of a row in the table (`python -m pipelines backbones`), or timm:<name>."""
    readout: Kind = "density"
    """`density`: a log-density with a learned centre bias and blur.  `eml`: the paper's map."""
    size: tuple[int, int] = (480, 640)
    """Height and width in pixels at which the backbone sees a picture."""
    weights: str = "default"
    """Initial weights of the backbone.  `default`: from a Python package, or else downloaded.
    `package`: only from a Python package.  `none`: random.  PATH: a .pth, .pth.tar or .safetensors
    file.  FOLDER, only in training: a packaged encoder, with its readouts."""
    readout_width: int = 32
    """Hidden channels of each `density` readout."""
    letterbox: bool = False
    """Fit a picture with another aspect ratio into `size` with black borders, instead of changing
    the size.  Set when pictures of several sizes train together."""

    def __post_init__(self) -> None:
        if min(self.size) < 32:
            raise ValueError(f"size (height, width) must be at least 32 pixels, not {self.size}")
        if self.letterbox and self.readout == "eml":
            raise ValueError("an `eml` encoder stretches every picture, as the paper does")
        find_backbone(self.backbone).check_size(self.size)


class Encoder(SaliencyNetwork):
    """Backbone, readouts and head.

    Called on RGB images (B, 3, H, W) in 0..1 of any size, it returns its own map (B, 1, H, W): a
    log-density for kind `density`, a saliency map in [0, 1] for `eml`.
    """

    def __init__(self, config: EncoderConfig, *, load_weights: bool = True) -> None:
        super().__init__()
        self.config, self.kind = config, config.readout
        row = find_backbone(config.backbone)
        self.backbone = build_backbone(config.backbone, config.weights if load_weights else "none")
        self.readout = nn.ModuleList(
            eml_readout(channels, row.eml_kernel)
            if config.readout == "eml"
            else density_readout(channels, config.readout_width)
            for channels in row.channels
        )
        self.head = (
            EmlHead(len(row.channels), row.eml_kernel)
            if config.readout == "eml"
            else DensityHead(len(row.channels))
        )
        # EML-NET feeds plain 0..1 pixels to every backbone.
        mean, std = (row.mean, row.std) if config.readout == "density" else ((0.0,) * 3, (1.0,) * 3)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.eval_modules: list[str] = []
        """Names of the backbone's modules that stay in eval mode while the encoder trains."""

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules except `eval_modules`."""
        super().train(mode)
        for name in self.eval_modules:
            self.backbone.get_submodule(name).eval()
        return self

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the backbone's input (H, W) in pixels for a picture of `size` (H, W).

        `eml` stretches every picture to the configured size, as the paper does.  `density` keeps
        the aspect ratio and about the configured area, in steps of 8 pixels or of a transformer's
        patch.  The short side has at least 32 pixels; the area is at most twice the configured one.
        """
        height, width = self.config.size
        row = find_backbone(self.config.backbone)
        if self.kind == "eml" or row.only_size or size[0] * width == size[1] * height:
            return height, width
        min_steps = -(-32 // row.step)
        scale = math.sqrt(height * width / (size[0] * size[1])) / row.step
        rows, columns = (row.step * max(min_steps, round(scale * side)) for side in size)
        longest = 2 * height * width // min(rows, columns) // row.step * row.step
        return min(rows, longest), min(columns, longest)

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the canvas (H, W) of a picture of `size`: its own size or the letterbox's."""
        height, width = self.config.size
        fits = size[0] * width == size[1] * height
        return (height, width) if self.config.letterbox and not fits else size

    def readouts(self, image: Tensor) -> list[Tensor]:
        """Return a readout (B, 1, h, w) for each tapped layer of images in 0..1.

        h x w is the layer's own size.
        """
        size = (image.shape[-2], image.shape[-1])
        canvas = self.canvas(size)
        if canvas != size:
            image = letterbox(image, canvas)
        image = (resize(image, self.input_size(canvas)) - self.mean) / self.std
        taps = self.backbone(image)
        return [to_float32(read(tap)) for read, tap in zip(self.readout, taps, strict=True)]

    def predict_map(self, readouts: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Return the encoder's map (B, 1, H, W) from its readouts of pictures of `size`."""
        canvas = self.canvas(size)
        output: Tensor = self.head(readouts, canvas, self.input_size(canvas))
        return output if canvas == size else unletterbox(output, size, self.kind)

    def forward(self, image: Tensor) -> Tensor:
        """Return the encoder's map (B, 1, H, W) of images (B, 3, H, W) in 0..1."""
        readouts = self.readouts(image)
        with full_precision(image.device):
            return self.predict_map(readouts, (image.shape[-2], image.shape[-1]))


def density_readout(channels: int, width: int) -> nn.Sequential:
    """Return a 1x1 convolution to `width`, BatchNorm, ReLU, 1x1 convolution to one channel."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 1, 1),
    )


class DensityHead(nn.Module):
    """Readouts at a quarter of the input size, 3x3 convolution, centre bias, blur, softmax."""

    radius = 12
    """Radius at which the blur is truncated, in pixels of the quarter-size grid."""

    def __init__(self, num_readouts: int) -> None:
        super().__init__()
        self.combine = nn.Conv2d(num_readouts, 1, 3, padding=1, bias=False)
        self.centre_bias = nn.Parameter(torch.zeros(1, 1, 15, 20))
        self.log_sigma = nn.Parameter(torch.tensor(math.log(1.5)))

    def forward(
        self, readouts: list[Tensor], size: tuple[int, int], input_size: tuple[int, int]
    ) -> Tensor:
        """Return the log-density (B, 1, H, W) at `size`; input_size: the backbone's input."""
        grid = (-(-input_size[0] // 4), -(-input_size[1] // 4))
        logits = self.combine(torch.cat([resize(r, grid) for r in readouts], 1)).float()
        logits = logits + resize(self.centre_bias, grid, "bicubic")
        sigma = self.log_sigma.exp().clamp(0.3, self.radius / 2)
        return log_softmax(resize(gaussian_blur(logits, sigma, self.radius, "replicate"), size))


def eml_readout(channels: int, kernel: int = 3) -> nn.Sequential:
    """Return EML-NET's readout: convolution with bias, BatchNorm, ReLU (kernel 1: sigmoid)."""
    activation = nn.Sigmoid() if kernel == 1 else nn.ReLU()
    return nn.Sequential(eml_conv(channels, kernel), nn.BatchNorm2d(1), activation)


def eml_conv(channels: int, kernel: int = 3) -> nn.Conv2d:
    """Return a convolution to one channel with EML-NET's init: std sqrt(2 / (k * k * out))."""
    conv = nn.Conv2d(channels, 1, kernel, padding=kernel // 2)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (kernel * kernel)))
    return conv


class EmlHead(nn.Module):
    """EML-NET's head of an encoder: readouts at one size, a convolution, BatchNorm, sigmoid.

    Kernel 3 (ResNet-50) resizes to the first readout's size by nearest neighbours.  Kernel 1
    (NASNet) resizes to the backbone's input size, bilinearly.
    """

    def __init__(self, num_readouts: int, kernel: int = 3) -> None:
        super().__init__()
        conv = eml_conv(num_readouts, kernel)
        self.combine = nn.Sequential(conv, nn.BatchNorm2d(1), nn.Sigmoid())
        self.at_full_size = kernel == 1

    def forward(
        self, readouts: list[Tensor], size: tuple[int, int], input_size: tuple[int, int]
    ) -> Tensor:
        """Return the saliency map in [0, 1] at `size`, (B, 1, H, W)."""
        if self.at_full_size:
            joined = torch.cat([resize(r, input_size) for r in readouts], 1)
        else:
            grid = (readouts[0].shape[-2], readouts[0].shape[-1])
            joined = torch.cat([F.interpolate(r, grid, mode="nearest") for r in readouts], 1)
        return resize(resize(self.combine(joined), input_size, "nearest"), size).float()
