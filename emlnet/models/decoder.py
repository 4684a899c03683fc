"""Decoders: join the readouts of any number of frozen encoders into one map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emlnet.data.maps import Kind, log_softmax, resize
from emlnet.models.encoder import eml_conv, eml_readout

LOG_DENSITY_SPREAD = 3.0
"""Typical standard deviation, in nats, of an encoder's log-density over the pixels of a picture."""
DROPOUT = 0.2
"""Share of the hidden channels of a `density` decoder that a training step leaves out."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder's architecture."""

    readout: Kind = "density"
    """`density`: the encoders' average density, corrected.  `eml`: the paper's decoder."""
    width: int = 32
    """Hidden channels of the `density` decoder's correction; its gate has half as many."""


class Decoder(nn.Module, ABC):
    """Base class of decoders of K encoders."""

    @abstractmethod
    def forward(
        self, readouts: list[list[Tensor]], log_densities: list[Tensor], size: tuple[int, int]
    ) -> Tensor:
        """Return a log-density (B, 1, H, W), or a saliency map in [0, 1] for kind `eml`.

        readouts: for each encoder, its (B, 1, h, w) readouts.  log_densities: for each encoder, its
        own log-density (B, 1, H, W).  size: (H, W) of the result.
        """


class EmlDecoder(Decoder):
    """EML-NET's decoder: refine each readout, resize all, join them by one convolution."""

    def __init__(self, num_readouts: list[int]) -> None:
        super().__init__()
        self.refine = nn.ModuleList(
            nn.ModuleList(eml_readout(1) for _ in range(number)) for number in num_readouts
        )
        self.combine = nn.Sequential(eml_conv(sum(num_readouts)), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(
        self, readouts: list[list[Tensor]], log_densities: list[Tensor], size: tuple[int, int]
    ) -> Tensor:
        """Return the saliency map in [0, 1], (B, 1, H, W)."""
        refined = [
            layer(readout)
            for layers, given in zip(self.refine, readouts, strict=True)
            for layer, readout in zip(layers.children(), given, strict=True)
        ]
        conv, norm, sigmoid = self.combine
        assert isinstance(conv, nn.Conv2d)
        output: Tensor = sigmoid(norm(convolve_upsampled(refined, conv, size))).float()
        return output


def convolve_upsampled(maps: Sequence[Tensor], conv: nn.Conv2d, size: tuple[int, int]) -> Tensor:
    """Upsample maps (B, 1, h, w) to `size` by nearest neighbours and convolve them, (B, 1, H, W).

    conv: 3x3 with padding 1, a bias and one output channel.  If `size` is a multiple of a map's
    size, one transposed convolution does both steps, six times as fast.
    """
    assert conv.bias is not None
    output = conv.bias.view(1, 1, 1, 1)
    groups: dict[tuple[int, int], list[int]] = {}
    for number, given in enumerate(maps):
        groups.setdefault((given.shape[-2], given.shape[-1]), []).append(number)
    for (height, width), numbers in groups.items():
        given = torch.cat([maps[number] for number in numbers], 1)
        factor = (size[0] // height, size[1] // width)
        if size[0] % height or size[1] % width:
            given, factor = resize(given, size, "nearest"), (1, 1)
        pixel = F.pad(given.new_ones(1, 1, *factor), (2, 2, 2, 2))
        kernels = F.conv2d(pixel, conv.weight[0, numbers, None]).transpose(0, 1)
        output = output + F.conv_transpose2d(given, kernels, stride=factor, padding=1)
    return output


class DensityDecoder(Decoder):
    """The average of the encoders' densities, weighted pixel by pixel, and corrected.

    log p = log sum_k w_k p_k + correction, renormalised.  The weights are the softmax of a gate.
    Gate and correction see the densities and the readouts.  Both start at zero: an untrained
    decoder is the plain average.  With one encoder only the correction has an effect.
    """

    def __init__(self, num_readouts: list[int], width: int) -> None:
        super().__init__()
        num_encoders, num_maps = len(num_readouts), sum(num_readouts)
        # Readouts of frozen encoders do not change, so a plain average over all steps is right.
        self.normalise = nn.BatchNorm2d(num_maps, momentum=None)
        inputs, half = num_encoders + num_maps, -(-width // 2)
        self.gate = _two_layers(inputs, nn.Conv2d(half, num_encoders, 1))
        self.correct = _two_layers(inputs, nn.Conv2d(width, 1, 3, padding=1, bias=False))

    def forward(
        self, readouts: list[list[Tensor]], log_densities: list[Tensor], size: tuple[int, int]
    ) -> Tensor:
        """Return the log-density (B, 1, H, W)."""
        # Half the size of the finest readout: a quarter of the input of a stride-2 backbone.
        finest = max((r for given in readouts for r in given), key=lambda r: r.shape[-1])
        grid = (-(-finest.shape[-2] // 2), -(-finest.shape[-1] // 2))
        maps = torch.cat([resize(r, grid) for given in readouts for r in given], 1)
        stacked = torch.cat(log_densities, 1)
        coarse = resize(stacked, grid)
        # Divide by the uniform density: these values do not depend on the picture's size.
        relative = coarse - coarse.exp().mean((2, 3), keepdim=True).log()
        inputs = torch.cat([relative / LOG_DENSITY_SPREAD, self.normalise(maps)], 1)
        log_weights = resize(self.gate(inputs), size).log_softmax(1)
        average = torch.logsumexp(stacked + log_weights, 1, keepdim=True)
        return log_softmax(average + resize(self.correct(inputs), size))


def _two_layers(inputs: int, last: nn.Conv2d) -> nn.Sequential:
    """Return a 3x3 convolution, ReLU, dropout, and the last convolution, set to zero."""
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    first = nn.Conv2d(inputs, last.in_channels, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout2d(DROPOUT), last)


def build_decoder(config: DecoderConfig, num_readouts: list[int]) -> Decoder:
    """Return an untrained decoder; num_readouts: the number of readouts per encoder."""
    if config.readout == "eml":
        return EmlDecoder(num_readouts)
    return DensityDecoder(num_readouts, config.width)
