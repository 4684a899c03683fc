"""Named configurations for `--preset NAME`; flags override their values."""

from __future__ import annotations

from dataclasses import replace

import tyro

from emlnet.losses.weighted import LossWeights
from emlnet.models.finetune import Finetune
from emlnet.training.state import Plan
from pipelines.config.options import DECODER_PLAN, FullCommand

# EML-NET's training, from its published code: SGD with momentum 0.9, one learning rate for all.
PAPER_PLAN = Plan(
    epochs=10,
    batch_size=8,
    lr=0.01,
    backbone_lr=1.0,
    readout_lr=1.0,
    optimizer="sgd",
    weight_decay=1e-4,
    schedule="step",
    step_epochs=5,
    clip_norm=0.0,
    loss_weights=LossWeights(kl=1, cc=1, nss=1),
    terms="reference",
)
# The paper trains NASNet with the squared error only.
NASNET_PLAN = replace(
    PAPER_PLAN, lr=0.1, step_epochs=3, loss_weights=LossWeights(kl=0, cc=0, nss=0, mse=1)
)

PRESETS: dict[str, FullCommand] = {
    # The main job in under 45 minutes on 2 CPU cores, from 500 training pictures.
    "osie-cpu": FullCommand(
        data=tyro.MISSING,
        size=(360, 480),
        finetune=Finetune(freeze=2),
        plan=Plan(epochs=4, loss_weights=LossWeights(kl=2, cc=1, nss=1), select="nss"),
    ),
    # The model that comes with `emlnet`: small and fast.  docs/use.md has the whole command.
    "builtin": FullCommand(
        data=tyro.MISSING,
        backbones=("efficientnet_lite0",),
        size=(288, 384),
        finetune=Finetune(freeze=2),
        plan=Plan(epochs=6, loss_weights=LossWeights(kl=2, cc=1, nss=1)),
    ),
    # `make demo`: a few dozen synthetic pictures, minutes.
    "demo": FullCommand(
        data=tyro.MISSING,
        backbones=("efficientnet_lite0", "efficientnet_lite1"),
        size=(192, 256),
        plan=Plan(epochs=3),
    ),
    # EML-NET as published; docs/train.md says where to get the Places365 weights.
    "paper": FullCommand(
        data=tyro.MISSING,
        backbones=("resnet50", "resnet50"),
        weights=("default", "resnet50_places365.pth.tar"),
        readout="eml",
        plan=PAPER_PLAN,
        decoder_plan=PAPER_PLAN,
        flip_scores=False,
    ),
    "paper-nasnet": FullCommand(
        data=tyro.MISSING,
        backbones=("nasnetalarge",),
        readout="eml",
        size=(320, 320),
        plan=NASNET_PLAN,
        decoder_plan=NASNET_PLAN,
        flip_scores=False,
    ),
    # Seconds, from random weights: does the pipeline run here?
    "smoke": FullCommand(
        data=tyro.MISSING,
        backbones=("tiny", "tiny"),
        weights=("none",),
        size=(96, 128),
        plan=Plan(epochs=1),
        decoder_plan=replace(DECODER_PLAN, epochs=1),
    ),
}


def find_preset(name: str) -> FullCommand:
    """Return a preset.  Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return replace(PRESETS[name], preset=name)


def start_from(config_type: type, name: str) -> FullCommand:
    """Return a preset as `FullCommand` or a subclass.

    Raises ValueError for another class or an unknown name.
    """
    if not issubclass(config_type, FullCommand):
        raise ValueError("--preset works only with `full`")
    return config_type(**vars(find_preset(name)))
