"""What of an encoder's backbone is trained, and at what cost of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from emlnet.backbones import Backbone, find_backbone
from emlnet.backbones.cost import nearest_size
from emlnet.backbones.taps import Taps
from emlnet.models.encoder import Encoder

BATCH_NORM = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """How an encoder's backbone is trained."""

    freeze: int = 0
    """Tapped layers, counted from the picture; all weights that lead to them stay as they are."""
    eval_batchnorm: bool = False
    """Keep the backbone's BatchNorm at its pretrained statistics: for batches of a few pictures."""
    recompute: bool = False
    """Compute activations again for the gradient instead of keeping them: less memory, about a
    third more time, the same result."""

    def __post_init__(self) -> None:
        if self.freeze < 0:
            raise ValueError(f"freeze counts tapped layers, at least 0, not {self.freeze}")


def prepare(encoder: Encoder, finetune: Finetune) -> Encoder:
    """The encoder, made ready to be trained so.

    Raises ValueError when the backbone has fewer taps, or cannot be computed again as asked.
    """
    row = find_backbone(encoder.config.backbone)
    if finetune.freeze > len(row.channels):
        raise ValueError(
            f"{row.name} has {len(row.channels)} tapped layers; freeze at most as many, "
            f"not {finetune.freeze}"
        )
    frozen = weights_before(row, finetune.freeze)
    for name, weight in encoder.backbone.named_parameters():
        weight.requires_grad_(name not in frozen)
    norms = {n: m for n, m in encoder.backbone.named_modules() if isinstance(m, BATCH_NORM)}
    encoder.still = [
        name
        for name, norm in norms.items()
        if finetune.eval_batchnorm or not any(w.requires_grad for w in norm.parameters())
    ]
    if finetune.recompute:
        network: Any = encoder.backbone
        if not isinstance(network, Taps) and len(encoder.still) < len(norms):
            raise ValueError(
                f"timm computes {row.name} again with its BatchNorm's statistics moving twice; "
                "pass --eval-batchnorm with --recompute"
            )
        try:
            getattr(network, "model", network).set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise ValueError(
                f"{row.name} has no way to compute its activations again; leave --recompute out"
            ) from error
    return encoder.train(encoder.training)


def weights_before(row: Backbone, num_taps: int) -> set[str]:
    """Names of the backbone's weights that the first taps depend on; nothing is computed."""
    if not num_taps:
        return set()
    with torch.device("meta"):
        network = row.build()
        taps = network(torch.empty(2, 3, *nearest_size(row, (64, 64))))[:num_taps]
    names, weights = zip(*network.named_parameters(), strict=True)
    total = torch.stack([tap.mean() for tap in taps]).sum()
    gradients = torch.autograd.grad(total, weights, allow_unused=True)
    return {name for name, given in zip(names, gradients, strict=True) if given is not None}
