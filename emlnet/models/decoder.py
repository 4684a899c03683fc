"""Decoders: the readouts of any number of frozen encoders to one map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from emlnet.data.maps import Kind, gaussian_blur, log_softmax, resize
from emlnet.models.encoder import eml_conv, eml_readout


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder's architecture."""

    readout: Kind = "density"
    """`density`: the encoders' average density, corrected.  `eml`: the paper's decoder."""
    width: int = 16
    """Hidden channels of the `density` decoder's correction."""


class Decoder(nn.Module):
    """Base class of decoders of K encoders."""

    def forward(
        self, readouts: list[list[Tensor]], log_densities: list[Tensor], size: tuple[int, int]
    ) -> Tensor:
        """Return a log-density (B, 1, H, W), or a saliency map in [0, 1] for kind `eml`.

        readouts: for each encoder, its (B, 1, h, w) readouts.  log_densities: for each encoder, its
        own log-density (B, 1, H, W).  size: (H, W) of the result.
        """
        raise NotImplementedError


class EmlDecoder(Decoder):
    """EML-NET's decoder: refines each readout, resizes all, and joins them by one convolution."""

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
        output: Tensor = sigmoid(norm(convolve_upsampled(refined, conv, size))).float()
        return output


def convolve_upsampled(maps: Sequence[Tensor], conv: nn.Module, size: tuple[int, int]) -> Tensor:
    """Upsample maps (B, 1, h, w) to `size` by nearest neighbours and convolve them, (B, 1, H, W).

    conv: 3x3 with padding 1 and one output channel.  Where each size is a whole multiple of the
    next smaller one, the products with the weights are added up at the maps' own sizes: a tenth of
    the work.
    """
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    groups: dict[tuple[int, int], list[int]] = {}
    for number, given in enumerate(maps):
        groups.setdefault((given.shape[-2], given.shape[-1]), []).append(number)
    shapes = sorted(groups)
    if any(b[0] % a[0] or b[1] % a[1] for a, b in pairwise([*shapes, size])):
        output: Tensor = conv(torch.cat([resize(given, size, "nearest") for given in maps], 1))
        return output
    weight = conv.weight[0].flatten(1)
    total: Tensor | None = None
    for shape in shapes:
        given = torch.cat([maps[number] for number in groups[shape]], 1)
        products = (weight[groups[shape]].T @ given.flatten(2)).view(-1, 9, *shape)
        total = products if total is None else resize(total, shape, "nearest") + products
    assert total is not None
    rows = _add_taps(total.view(-1, 3, 3, *shapes[-1]).unbind(1), size[0] // shapes[-1][0], -2)
    columns = _add_taps(rows.unbind(1), size[1] // shapes[-1][1], -1)
    return columns[:, None] + conv.bias.view(1, 1, 1, 1)


def _add_taps(taps: Sequence[Tensor], factor: int, dim: int) -> Tensor:
    """Upsample the products of a 3-tap kernel `factor` times along `dim` and add them up.

    taps: the products of the pixel before, at and after each place; zero outside the map.
    """
    before, here, after = taps
    length = here.shape[dim]
    empty = torch.zeros_like(here.narrow(dim, 0, 1))
    earlier = torch.cat([empty, before.narrow(dim, 0, length - 1)], dim)
    later = torch.cat([after.narrow(dim, 1, length - 1), empty], dim)
    if factor == 1:
        return earlier + here + later
    inner = [before + here + after] * (factor - 2)
    parts = [earlier + here + after, *inner, before + here + later]
    return torch.stack(parts, here.ndim + dim + 1).flatten(here.ndim + dim, here.ndim + dim + 1)


class DensityDecoder(Decoder):
    """The weighted average of the encoders' densities, corrected by their readouts.

    log p = log sum_k w_k p_k + correction, renormalised.  All corrections start at zero and the
    weights are equal, so that an untrained decoder is the plain average.  There is no temperature:
    the encoders have seen the training pictures, and a temperature learned on them is too sharp.
    """

    radius = 12
    """Where the blur is truncated, in pixels of the correction's grid."""

    def __init__(self, num_readouts: list[int], width: int) -> None:
        super().__init__()
        inputs = sum(num_readouts) + len(num_readouts)
        self.weight = nn.Parameter(torch.zeros(len(num_readouts)))
        self.blur = nn.Parameter(torch.zeros(()))
        self.centre_bias = nn.Parameter(torch.zeros(1, 1, 15, 20))
        self.correct = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 1, 3, padding=1, bias=False),
        )
        for parameter in self.correct[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, readouts: list[list[Tensor]], log_densities: list[Tensor], size: tuple[int, int]
    ) -> Tensor:
        """Return the log-density (B, 1, H, W)."""
        stacked = torch.cat(log_densities, 1)
        weight = self.weight.log_softmax(0).view(1, -1, 1, 1)
        average = torch.logsumexp(stacked + weight, 1, keepdim=True)
        # Half the size of the finest readout: a quarter of the input of a stride-2 backbone.
        finest = max((r for given in readouts for r in given), key=lambda r: r.shape[-1])
        grid = (-(-finest.shape[-2] // 2), -(-finest.shape[-1] // 2))
        maps = [resize(stacked, grid)] + [resize(r, grid) for given in readouts for r in given]
        coarse = resize(average, grid)
        correction = (
            self.correct(torch.cat(maps, 1)).float()
            + resize(self.centre_bias, grid, "bicubic")
            + self.blur * (gaussian_blur(coarse, 3.0, self.radius, "replicate") - coarse)
        )
        return log_softmax(average + resize(correction, size))


def build_decoder(config: DecoderConfig, num_readouts: list[int]) -> Decoder:
    """Return a decoder with fresh weights; num_readouts: the number of readouts per encoder."""
    if config.readout == "eml":
        return EmlDecoder(num_readouts)
    return DensityDecoder(num_readouts, config.width)
