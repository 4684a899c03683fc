"""The decoder: joins the readouts of any number of frozen encoders into one map."""

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
    """What a decoder is made of."""

    readout: Kind = "density"
    """`density`: the encoders' average density, corrected.  `eml`: the paper's decoder."""
    width: int = 16
    """Hidden channels of the `density` decoder's correction."""


class Decoder(nn.Module):
    """Readouts and maps of K encoders to one map.

    readouts: for each encoder its (B, 1, h, w) readouts.  log_densities: for each encoder its
    own log-density (B, 1, H, W).  size: (H, W) of the answer in pixels.
    """

    def forward(
        self, readouts: list[list[Tensor]], log_densities: list[Tensor], size: tuple[int, int]
    ) -> Tensor:
        """(B, 1, H, W): a log-density, or a saliency map in [0, 1] for kind `eml`."""
        raise NotImplementedError


class RefineEach(nn.ModuleList):
    """A convolution, BatchNorm and ReLU for each readout of one encoder."""

    def __init__(self, num_readouts: int) -> None:
        super().__init__(eml_readout(1) for _ in range(num_readouts))

    def forward(self, readouts: list[Tensor]) -> list[Tensor]:
        """Each (B, 1, h, w) readout, refined at its own size."""
        return [layer(readout) for layer, readout in zip(self, readouts, strict=True)]


class EmlDecoder(Decoder):
    """EML-NET's decoder: readouts convolved, normalised, resized, and joined by one convolution."""

    def __init__(self, num_readouts: list[int]) -> None:
        super().__init__()
        self.refine = nn.ModuleList(RefineEach(number) for number in num_readouts)
        self.combine = nn.Sequential(eml_conv(sum(num_readouts)), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(
        self, readouts: list[list[Tensor]], log_densities: list[Tensor], size: tuple[int, int]
    ) -> Tensor:
        """Saliency map in [0, 1], (B, 1, H, W)."""
        refined = [
            readout
            for refine, given in zip(self.refine, readouts, strict=True)
            for readout in refine(given)
        ]
        convolve, normalise, squash = self.combine
        answer: Tensor = squash(normalise(convolve_shown(refined, convolve, size))).float()
        return answer


def convolve_shown(maps: Sequence[Tensor], conv: nn.Module, size: tuple[int, int]) -> Tensor:
    """A 3x3 convolution of (B, 1, h, w) maps shown at `size` by nearest neighbours, (B, 1, H, W).

    Where each size is a whole multiple of the next, products with the weights are taken and added
    up at the maps' own sizes: a tenth of the work of making all maps as large as the answer.
    """
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    groups: dict[tuple[int, int], list[int]] = {}
    for number, given in enumerate(maps):
        groups.setdefault((given.shape[-2], given.shape[-1]), []).append(number)
    shapes = sorted(groups)
    if any(b[0] % a[0] or b[1] % a[1] for a, b in pairwise([*shapes, size])):
        answer: Tensor = conv(torch.cat([resize(given, size, "nearest") for given in maps], 1))
        return answer
    weight = conv.weight[0].flatten(1)
    total: Tensor | None = None
    for shape in shapes:
        given = torch.cat([maps[number] for number in groups[shape]], 1)
        products = (weight[groups[shape]].T @ given.flatten(2)).view(-1, 9, *shape)
        total = products if total is None else resize(total, shape, "nearest") + products
    assert total is not None
    rows = _add_shown(total.view(-1, 3, 3, *shapes[-1]).unbind(1), size[0] // shapes[-1][0], -2)
    columns = _add_shown(rows.unbind(1), size[1] // shapes[-1][1], -1)
    return columns[:, None] + conv.bias.view(1, 1, 1, 1)


def _add_shown(taps: Sequence[Tensor], times: int, dim: int) -> Tensor:
    """The sum of what is before, at and after each place along `dim`, zero outside, when each map
    shows its values `times` times there.
    """
    before, here, after = taps
    length = here.shape[dim]
    empty = torch.zeros_like(here.narrow(dim, 0, 1))
    earlier = torch.cat([empty, before.narrow(dim, 0, length - 1)], dim)
    later = torch.cat([after.narrow(dim, 1, length - 1), empty], dim)
    if times == 1:
        return earlier + here + later
    inner = [before + here + after] * (times - 2)
    shown = torch.stack(
        [earlier + here + after, *inner, before + here + later], here.ndim + dim + 1
    )
    return shown.flatten(here.ndim + dim, here.ndim + dim + 1)


class DensityDecoder(Decoder):
    """The weighted average of the encoders' densities, corrected where the readouts say so.

    log p = log sum_k w_k p_k + correction, renormalised.  All corrections start at zero and the
    weights are equal, so an untrained decoder is the plain average.  There is no temperature: the
    encoders have seen the pictures that the decoder trains on, and one learned there is too sharp.
    """

    radius = 12
    """Where the blur is cut, in pixels of the correction's grid."""

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
        """Log-density (B, 1, H, W)."""
        stacked = torch.cat(log_densities, 1)
        weight = self.weight.log_softmax(0).view(1, -1, 1, 1)
        average = torch.logsumexp(stacked + weight, 1, keepdim=True)
        # Half the size of the finest readout: a quarter of what a stride-2 backbone saw.
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
    """A decoder with fresh weights; num_readouts: how many readouts each encoder gives."""
    if config.readout == "eml":
        return EmlDecoder(num_readouts)
    return DensityDecoder(num_readouts, config.width)
