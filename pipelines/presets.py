"""Whole named configurations as Python values: `--preset NAME`; flags change them."""

from __future__ import annotations

from dataclasses import replace

import tyro

from emlnet.losses import LossWeights
from emlnet.state import Plan
from pipelines.config import DECODER_PLAN, FullCommand

PRESETS: dict[str, FullCommand] = {
    # The main job in under 45 minutes on 2 CPU cores, from 500 training pictures.
    "osie-cpu": FullCommand(
        data=tyro.MISSING,
        size=(360, 480),
        plan=Plan(epochs=4, loss_weights=LossWeights(kl=2, cc=1, nss=1), select="nss"),
        decoder_plan=replace(DECODER_PLAN, epochs=3, loss_weights=LossWeights(kl=2, cc=1.3, nss=1)),
    ),
    # `make demo`: a few dozen synthetic pictures, minutes.
    "demo": FullCommand(
        data=tyro.MISSING,
        backbones=("efficientnet_lite0", "efficientnet_lite1"),
        size=(192, 256),
        plan=Plan(epochs=3),
        decoder_plan=replace(DECODER_PLAN, epochs=3),
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
    """The preset of that name.  Raises ValueError that lists the names."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return replace(PRESETS[name], preset=name)
