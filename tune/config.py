"""One frozen tree per command, built from the configs of the rooms below."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from emlnet.encoder import EncoderConfig
from emlnet.state import Plan
from pipelines.config import Compute, Tracking
from tune.objective import Objective
from tune.space import EQUAL, Space


@dataclass(frozen=True, kw_only=True)
class LossWeightsCommand:
    """Search the loss weights of an encoder: short trials, of which 1:1:1 is the first."""

    data: Path
    """Folder of shards."""
    num_trials: int = 8
    """Weights to try, 1:1:1 among them."""
    objective: Objective = "kl"
    """Validation metric that trials are compared by; `kl` the lower, the others the higher."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How weights are proposed: `tpe` learns from the trials before (Optuna), `random` does not."""
    retry_failed: bool = False
    """Run trials again that failed when the same command ran before."""
    space: Space = field(default_factory=Space)
    encoder: OmitArgPrefixes[EncoderConfig] = field(default_factory=EncoderConfig)
    plan: OmitArgPrefixes[Plan] = field(default_factory=lambda: Plan(epochs=1))
    seed: int = 0
    """Seed of every trial's weights, order and flips, and of the sampler."""
    compute: OmitArgPrefixes[Compute] = field(default_factory=lambda: Compute(max_failures=0))
    tracking: OmitArgPrefixes[Tracking] = field(default_factory=Tracking)


def check(command: LossWeightsCommand) -> None:
    """Raises ValueError for what the command cannot mean."""
    if command.num_trials < 1:
        raise ValueError(f"the number of trials is at least 1, not {command.num_trials}")
    if command.plan.loss_weights != EQUAL:
        raise ValueError("--loss-weights is what the search finds; leave it out")
    if command.plan.select not in (Plan().select, command.objective):
        raise ValueError("trials keep the best epoch by --objective; leave --select out")
