"""Freeze parts of an encoder's backbone and recompute its activations to save memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from emlnet.backbones import Backbone, find_backbone
from emlnet.backbones.feature_extractor import FeatureExtractor
from emlnet.models.encoder import Encoder

BATCH_NORM = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Options for finetuning an encoder's backbone."""

    freeze: int = 0
    """Freeze all weights from the input up to this tapped layer: 1 for the first, 0 for none."""
    eval_batchnorm: bool = False
    """Keep BatchNorm's pretrained statistics in the backbone; helps if a batch has few pictures."""
    recompute: bool = False
    """Recompute activations for the gradient instead of keeping them: less memory, about a third
    more time, the same result."""

    def __post_init__(self) -> None:
        if self.freeze < 0:
            raise ValueError(f"freeze must be at least 0, not {self.freeze}")


def prepare(encoder: Encoder, finetune: Finetune) -> Encoder:
    """Prepare an encoder, in place, for finetuning.

    Raises ValueError if the backbone has too few taps, or cannot recompute its activations.
    """
    row = find_backbone(encoder.config.backbone)
    if finetune.freeze > len(row.channels):
        raise ValueError(
            f"{row.name} has {len(row.channels)} tapped layers; --freeze must be 0 to "
            f"{len(row.channels)}, not {finetune.freeze}"
        )
    frozen = weights_before(row, finetune.freeze)
    for name, weight in encoder.backbone.named_parameters():
        weight.requires_grad_(name not in frozen)
    norms = {n: m for n, m in encoder.backbone.named_modules() if isinstance(m, BATCH_NORM)}
    encoder.eval_modules = [
        name
        for name, norm in norms.items()
        if finetune.eval_batchnorm or not any(w.requires_grad for w in norm.parameters())
    ]
    if finetune.recompute:
        network: Any = encoder.backbone
        if not isinstance(network, FeatureExtractor) and len(encoder.eval_modules) < len(norms):
            raise ValueError(
                f"recomputing would update the BatchNorm statistics of timm's {row.name} twice a "
                "step; pass --eval-batchnorm with --recompute"
            )
        try:
            getattr(network, "model", network).set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise ValueError(
                f"{row.name} cannot recompute its activations; leave --recompute out"
            ) from error
    return encoder.train(encoder.training)


def weights_before(row: Backbone, num_taps: int) -> set[str]:
    """Return the names of the weights that a backbone's first taps depend on."""
    if not num_taps:
        return set()
    with torch.device("meta"):
        network = row.build()
        taps = network(torch.empty(2, 3, *row.nearest_size((64, 64))))[:num_taps]
    names, weights = zip(*network.named_parameters(), strict=True)
    total = torch.stack([tap.mean() for tap in taps]).sum()
    gradients = torch.autograd.grad(total, weights, allow_unused=True)
    return {name for name, given in zip(names, gradients, strict=True) if given is not None}
