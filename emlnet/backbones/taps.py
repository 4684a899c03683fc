"""Networks that return feature maps from the middle of a library's model, under its key names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Taps(nn.Module):
    """A network that answers its tapped feature maps.

    recompute: in training, keep what enters each layer and compute the rest again in the backward
    pass: less memory, about a third more time, the same gradients and BatchNorm statistics.
    """

    recompute = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Sets `recompute`; timm's name for it."""
        self.recompute = enable

    def run(self, layer: nn.Module, *inputs: Any) -> Any:
        """A layer's answer; a Sequential's are computed again block by block."""
        # What has no weights costs little to keep, and a ReLU may overwrite what enters it.
        has_weights = next(layer.parameters(), None) is not None
        if not (self.recompute and self.training and torch.is_grad_enabled() and has_weights):
            return layer(*inputs)
        if isinstance(layer, nn.Sequential):
            (answer,) = inputs
            for block in layer:
                answer = self.run(block, answer)
            return answer

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _statistics_kept(layer)

        return checkpoint(layer, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_kept(layer: nn.Module) -> Iterator[None]:
    """BatchNorm moves its running statistics the first time a layer is computed, not the second."""
    norms = [m for m in layer.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    # The second time may end before the last of them counts its batch.
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


class SequentialTaps(Taps):
    """Named layers in a row, some of which are tapped.

    channels_last: the layers answer (B, H, W, C), which is turned into (B, C, H, W).
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
        """(B, 3, H, W) to the tapped feature maps."""
        taps: list[Tensor] = []
        answer: Tensor | tuple[Tensor, ...] = image
        for name, layer in self.named_children():
            answer = self.run(layer, answer)
            if name in self.at:
                # DPN's blocks answer two halves.
                tap = torch.cat(answer, 1) if isinstance(answer, tuple) else answer
                taps.append(tap.permute(0, 3, 1, 2) if self.channels_last else tap)
        return taps


class TinyTaps(Taps):
    """A backbone of a few hundred weights, for tests and dry runs of a pipeline."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to two feature maps at 1/2 and 1/4 of the size."""
        first: Tensor = self.run(self.stage1, image)
        return [first, self.run(self.stage2, first)]
