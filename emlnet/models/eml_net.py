"""EML-NET: frozen encoders and the decoder that joins them; what is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from emlnet.data.framing import off_canvas
from emlnet.data.maps import Kind, resize, to_log_density
from emlnet.models.decoder import DecoderConfig, build_decoder
from emlnet.models.encoder import Encoder
from emlnet.models.precision import full_precision
from emlnet.models.saliency_network import SaliencyNetwork


class EMLNet(SaliencyNetwork):
    """K frozen encoders and a decoder.

    Called on (B, 3, H, W) RGB in 0..1 it answers (B, 1, H, W): a log-density, or for kind `eml` a
    saliency map in [0, 1].  Encoders stay in eval mode and without gradients, always.
    """

    def __init__(self, encoders: Sequence[Encoder], config: DecoderConfig) -> None:
        super().__init__()
        if not encoders:
            raise ValueError("a decoder joins at least one encoder")
        boxes = {e.config.size if e.config.letterbox else None for e in encoders}
        if len(boxes) > 1:
            raise ValueError(
                "encoders that letterbox pictures join only with such of the same size: train all "
                "of them on the same data, at one --size"
            )
        self.config, self.kind = config, config.readout
        self.encoders = nn.ModuleList(encoders).eval().requires_grad_(False)
        self.decoder = build_decoder(config, [len(encoder.readout) for encoder in encoders])

    def train(self, mode: bool = True) -> Self:
        """Sets the decoder's mode; the encoders' BatchNorm never leaves eval mode."""
        super().train(mode)
        self.encoders.eval()
        return self

    @torch.no_grad()
    def readouts(self, image: Tensor) -> list[list[Tensor]]:
        """For each encoder its readouts of (B, 3, H, W) images, (B, 1, h, w) each."""
        return [encoder.readouts(image) for encoder in self._encoders()]

    @torch.no_grad()
    def encoder_maps(
        self, readouts: list[list[Tensor]], size: tuple[int, int]
    ) -> list[tuple[Tensor, Kind]]:
        """Each encoder's own map (B, 1, H, W) from its readouts, and its kind."""
        return [
            (encoder.own_map(given, size), encoder.kind)
            for encoder, given in zip(self._encoders(), readouts, strict=True)
        ]

    def decode(self, readouts: list[list[Tensor]], size: tuple[int, int]) -> Tensor:
        """Readouts, as `readouts` gives them, to the answer (B, 1, H, W)."""
        first = self._encoders()[0]
        canvas = first.canvas(size)
        with full_precision(readouts[0][0].device):
            if self.kind == "density":
                maps = [to_log_density(*given) for given in self.encoder_maps(readouts, canvas)]
                answer: Tensor = self.decoder(readouts, maps, canvas)
            else:
                # The paper decodes at the size that the encoders saw, whatever the picture's.
                answer = resize(self.decoder(readouts, [], first.input_size(canvas)), canvas)
            return answer if canvas == size else off_canvas(answer, size, self.kind)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 to the answer (B, 1, H, W)."""
        return self.decode(self.readouts(image), (image.shape[-2], image.shape[-1]))

    def _encoders(self) -> list[Encoder]:
        return list(self.encoders)  # type: ignore[arg-type]  # ModuleList hides what it holds


class CachedDecoder(SaliencyNetwork):
    """An EML-NET that starts from readouts: what the decoder trains as, without any backbone."""

    def __init__(self, net: EMLNet) -> None:
        super().__init__()
        self.net, self.kind = net, net.kind
        # An untrained `density` decoder is the average of its encoders.
        self.validate_untrained = net.kind == "density"
        for encoder in net._encoders():
            encoder.backbone = nn.Identity()

    def forward(self, readouts: list[list[Tensor]], size: tuple[int, int]) -> Tensor:
        """Readouts of each encoder and the picture's (H, W) to the answer (B, 1, H, W)."""
        return self.net.decode(readouts, size)


def encoder_names(backbones: Sequence[str]) -> list[str]:
    """What encoders are called in tables: `encoder <backbone>`, numbered where one occurs again."""
    names = []
    for position, backbone in enumerate(backbones):
        again = backbones[:position].count(backbone)
        names.append(f"encoder {backbone}" + (f" ({again + 1})" if again else ""))
    return names


def average_density(log_densities: Sequence[Tensor]) -> Tensor:
    """The plain average of K densities, given and returned as log-densities (B, 1, H, W)."""
    stacked = torch.cat(list(log_densities), 1)
    return torch.logsumexp(stacked, 1, keepdim=True) - torch.log(
        torch.tensor(float(len(log_densities)), device=stacked.device)
    )
