"""Networks that return a library model's inner feature maps and keep its key names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class FeatureExtractor(nn.Module):
    """A network that returns its tapped feature maps.

    recompute: in training, keep only the input of each layer and recompute the rest in the backward
    pass.  It saves memory, takes about a third more time, and changes neither gradients nor
    BatchNorm statistics.
    """

    recompute = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Set `recompute`; the name is timm's."""
        self.recompute = enable

    def run(self, layer: nn.Module, *inputs: Any) -> Any:
        """Call a layer; a Sequential is recomputed block by block."""
        # Layers without weights need little memory, and a ReLU may overwrite its input.
        has_weights = next(layer.parameters(), None) is not None
        if not (self.recompute and self.training and torch.is_grad_enabled() and has_weights):
            return layer(*inputs)
        if isinstance(layer, nn.Sequential):
            (output,) = inputs
            for block in layer:
                output = self.run(block, output)
            return output

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _statistics_kept(layer)

        return checkpoint(layer, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_kept(layer: nn.Module) -> Iterator[None]:
    """Keep the running statistics of BatchNorm while a layer is recomputed."""
    norms = [m for m in layer.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    # Recomputing may stop before the last BatchNorm has counted its batch.
    counts = [
        None if n.num_batches_tracked is None else n.num_batches_tracked.clone() for n in norms
    ]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


class SequentialFeatureExtractor(FeatureExtractor):
    """A sequence of named layers, some of them tapped.

    channels_last: the layers return (B, H, W, C), and the taps are permuted to (B, C, H, W).
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], at: Sequence[str], channels_last: bool = False
    ) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        assert set(at) <= set(layers)
        self.at, self.channels_last = frozenset(at), channels_last

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the tapped feature maps of images (B, 3, H, W)."""
        taps: list[Tensor] = []
        output: Tensor | tuple[Tensor, ...] = image
        for name, layer in self.named_children():
            output = self.run(layer, output)
            if name in self.at:
                # DPN's blocks return two parts.
                tap = torch.cat(output, 1) if isinstance(output, tuple) else output
                taps.append(tap.permute(0, 3, 1, 2) if self.channels_last else tap)
        return taps


class TinyFeatureExtractor(FeatureExtractor):
    """A backbone with a few hundred weights, for tests and dry runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return two feature maps, at 1/2 and 1/4 of the images' size."""
        first: Tensor = self.run(self.stage1, image)
        return [first, self.run(self.stage2, first)]
