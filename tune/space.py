"""The search space as data: numbers that a sampler draws, and what they mean for training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from emlnet.losses import LossWeights
from emlnet.state import Plan

EQUAL = LossWeights()
"""The baseline: KL, CC and NSS at 1:1:1."""
TOTAL = sum(asdict(EQUAL).values())
"""Sum of the weights of every trial.  Under AdamW only their ratios matter; under SGD a scale is a
learning rate, and clipping sees it too: a fixed sum keeps it out of the search."""

Point = Mapping[str, float]
"""What a sampler drew: a number for each dimension."""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """The range of one number that a sampler draws; log: evenly in its logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Space:
    """Loss weights whose shares of their sum are drawn evenly from all there are."""

    extra_terms: tuple[Literal["sim", "mse"], ...] = ()
    """Loss terms to weigh beside kl, cc and nss."""
    min_share: float = 0.05
    """A term whose share of the sum of the weights is smaller than this weighs 0."""

    def __post_init__(self) -> None:
        if len(set(self.extra_terms)) < len(self.extra_terms):
            raise ValueError(f"each extra term once, not {' '.join(self.extra_terms)}")
        if not 0 <= self.min_share < 1 / len(self.terms):
            raise ValueError(
                f"a share of at least {self.min_share} each is too much for {len(self.terms)} terms"
            )

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms that are weighed; the others weigh 0."""
        return ("kl", "cc", "nss", *self.extra_terms)

    def dimensions(self) -> dict[str, Dimension]:
        """What a sampler draws, by name: all numbers evenly between their ends."""
        return dict.fromkeys(self.terms, Dimension(low=0.0, high=0.9999))

    def plan(self, point: Point, plan: Plan) -> Plan:
        """The plan with what the point says."""
        return replace(plan, loss_weights=self.weights(point))

    def weights(self, point: Point) -> LossWeights:
        """The loss weights at a point; they sum to TOTAL, rounded to 4 digits after the point.

        Even numbers become exponential ones, whose shares of their sum are even on the simplex
        (Dirichlet, all concentrations 1).
        """
        drawn = _shares({term: -math.log1p(-point[term]) for term in self.terms})
        kept = _shares({t: share if share >= self.min_share else 0.0 for t, share in drawn.items()})
        zeros = dict.fromkeys(asdict(EQUAL), 0.0)
        return LossWeights(**zeros | {t: round(share * TOTAL, 4) for t, share in kept.items()})

    def point(self, weights: LossWeights) -> dict[str, float]:
        """A point whose weights these are, up to scale."""
        return {t: -math.expm1(-share) for t, share in _shares(asdict(weights), self.terms).items()}


def _shares(values: Mapping[str, float], names: tuple[str, ...] = ()) -> dict[str, float]:
    """Named values, all when none is named, divided by their sum; equal ones when all are 0."""
    chosen = {name: values[name] for name in names or values}
    total = sum(chosen.values())
    if not total:
        return dict.fromkeys(chosen, 1 / len(chosen))
    return {name: value / total for name, value in chosen.items()}


def short(weights: LossWeights) -> str:
    """The weights without those that are 0, as `--loss-weights` takes them."""
    return ",".join(f"{name}={value:g}" for name, value in asdict(weights).items() if value)
