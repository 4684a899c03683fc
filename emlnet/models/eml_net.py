"""EML-NET: frozen encoders and the decoder that joins them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from emlnet.data.framing import unletterbox
from emlnet.data.maps import Kind, resize, to_log_density
from emlnet.models.decoder import DecoderConfig, build_decoder
from emlnet.models.encoder import Encoder
from emlnet.models.precision import full_precision
from emlnet.models.saliency_network import SaliencyNetwork


class EMLNet(SaliencyNetwork):
    """K frozen encoders and a decoder.

    Called on RGB images (B, 3, H, W) in 0..1, it returns (B, 1, H, W): a log-density, or for kind
    `eml` a saliency map in [0, 1].  Encoders always stay in eval mode and without gradients.
    """

    def __init__(self, encoders: Sequence[Encoder], config: DecoderConfig) -> None:
        super().__init__()
        if not encoders:
            raise ValueError("a decoder joins at least one encoder")
        boxes = {e.config.size if e.config.letterbox else None for e in encoders}
        if len(boxes) > 1:
            raise ValueError(
                "an encoder that letterboxes pictures can only be joined with encoders that do so "
                "at the same size: train all of them on the same data, at one --size"
            )
        self.config, self.kind = config, config.readout
        self.encoders = nn.ModuleList(encoders).eval().requires_grad_(False)
        self.decoder = build_decoder(config, [len(encoder.readout) for encoder in encoders])

    @property
    def encoder_list(self) -> list[Encoder]:
        """The encoders as a typed list."""
        return list(self.encoders)  # type: ignore[arg-type]  # ModuleList's items are Modules.

    def train(self, mode: bool = True) -> Self:
        """Set the decoder's mode; the encoders' BatchNorm stays in eval mode."""
        super().train(mode)
        self.encoders.eval()
        return self

    @torch.no_grad()
    def readouts(self, image: Tensor) -> list[list[Tensor]]:
        """Return each encoder's readouts (B, 1, h, w) of images (B, 3, H, W)."""
        return [encoder.readouts(image) for encoder in self.encoder_list]

    @torch.no_grad()
    def encoder_maps(
        self, readouts: list[list[Tensor]], size: tuple[int, int]
    ) -> list[tuple[Tensor, Kind]]:
        """Return each encoder's own map (B, 1, H, W), from its readouts, and its kind."""
        return [
            (encoder.predict_map(given, size), encoder.kind)
            for encoder, given in zip(self.encoder_list, readouts, strict=True)
        ]

    def decode(self, readouts: list[list[Tensor]], size: tuple[int, int]) -> Tensor:
        """Return the map (B, 1, H, W) from the encoders' readouts of pictures of `size`."""
        first = self.encoder_list[0]
        canvas = first.canvas(size)
        with full_precision(readouts[0][0].device):
            if self.kind == "density":
                maps = [to_log_density(*given) for given in self.encoder_maps(readouts, canvas)]
                output: Tensor = self.decoder(readouts, maps, canvas)
            else:
                # The paper decodes at the encoders' input size, for pictures of any size.
                output = resize(self.decoder(readouts, [], first.input_size(canvas)), canvas)
            return output if canvas == size else unletterbox(output, size, self.kind)

    def forward(self, image: Tensor) -> Tensor:
        """Return the map (B, 1, H, W) of images (B, 3, H, W) in 0..1."""
        return self.decode(self.readouts(image), (image.shape[-2], image.shape[-1]))


class CachedDecoder(SaliencyNetwork):
    """An EML-NET without backbones for decoder training; called on cached readouts."""

    def __init__(self, net: EMLNet) -> None:
        super().__init__()
        self.net, self.kind = net, net.kind
        # An untrained `density` decoder is the average of its encoders.
        self.validate_untrained = net.kind == "density"
        for encoder in net.encoder_list:
            encoder.backbone = nn.Identity()

    def forward(self, readouts: list[list[Tensor]], size: tuple[int, int]) -> Tensor:
        """Return the map (B, 1, H, W) from each encoder's readouts of pictures of `size`."""
        return self.net.decode(readouts, size)


def encoder_names(backbones: Sequence[str]) -> list[str]:
    """Return names of encoders for tables: `encoder <backbone>`, numbered if repeated."""
    names = []
    for position, backbone in enumerate(backbones):
        again = backbones[:position].count(backbone)
        names.append(f"encoder {backbone}" + (f" ({again + 1})" if again else ""))
    return names


def average_density(log_densities: Sequence[Tensor]) -> Tensor:
    """Return the plain average of K densities; all are log-densities (B, 1, H, W)."""
    stacked = torch.cat(list(log_densities), 1)
    return torch.logsumexp(stacked, 1, keepdim=True) - torch.log(
        torch.tensor(float(len(log_densities)), device=stacked.device)
    )
