"""The search space as data: numbers that a sampler draws, and what they mean for training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from emlnet.losses.weighted import LossWeights
from emlnet.training.state import Plan

EQUAL = LossWeights()
"""The baseline: KL, CC and NSS at 1:1:1."""
KL_LED = LossWeights(kl=10, cc=2, nss=1)
"""Near what TranSalNet and SUM train with: KL 10, CC 2, SIM 1, NSS 1."""
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


FACTORS = {
    "lr": Dimension(low=1 / 3, high=3, log=True),
    "width": Dimension(low=0.5, high=2, log=True),
}
"""What may join the weights, each as a factor of what the command says."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """Loss weights whose shares of their sum are drawn evenly from all there are."""

    extra_terms: tuple[Literal["sim", "mse"], ...] = ()
    """Loss terms to weigh beside kl, cc and nss."""
    min_share: float = 0.05
    """A term whose share of the sum of the weights is smaller than this weighs 0."""
    also: tuple[Literal["lr", "width"], ...] = ()
    """Other numbers to search: `lr`, from a third to three times the given one; `width`, of the
    readouts (or of the decoder), from half to twice."""

    def __post_init__(self) -> None:
        for names in (self.extra_terms, self.also):
            if len(set(names)) < len(names):
                raise ValueError(f"each name once, not {' '.join(names)}")
        if self.min_share < 0:
            raise ValueError(f"a share is at least 0, not {self.min_share}")
        if self.min_share >= 1 / len(self.terms):
            raise ValueError(
                f"a share of at least {self.min_share} each is too much for {len(self.terms)} terms"
            )

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms that are weighed; the others weigh 0."""
        return ("kl", "cc", "nss", *self.extra_terms)

    def dimensions(self) -> dict[str, Dimension]:
        """What a sampler draws, by name: terms evenly between their ends, then the factors."""
        terms = dict.fromkeys(self.terms, Dimension(low=0.0, high=0.9999))
        return terms | {name: FACTORS[name] for name in self.also}

    def plan(self, point: Point, plan: Plan) -> Plan:
        """The plan with what the point says."""
        lr = float(f"{plan.lr * point.get('lr', 1.0):.3g}")
        return replace(plan, loss_weights=self.weights(point), lr=lr)

    def width(self, point: Point, width: int) -> int:
        """Hidden channels: as given, times the point's factor to a multiple of 4."""
        factor = point.get("width", 1.0)
        return width if factor == 1 else max(4, 4 * round(width * factor / 4))

    def weights(self, point: Point) -> LossWeights:
        """The loss weights at a point; they sum to TOTAL, rounded to 4 digits after the point.

        Even numbers become exponential ones, whose shares of their sum are even on the simplex
        (Dirichlet, all concentrations 1).
        """
        drawn = shares({term: -math.log1p(-point[term]) for term in self.terms})
        kept = shares({t: share if share >= self.min_share else 0.0 for t, share in drawn.items()})
        zeros = dict.fromkeys(asdict(EQUAL), 0.0)
        return LossWeights(**zeros | {t: round(share * TOTAL, 4) for t, share in kept.items()})

    def lost(self, weights: LossWeights) -> dict[str, float]:
        """The shares of weights, by term, that no point has: of terms that are not weighed, and
        those smaller than the least share.
        """
        return {
            term: share
            for term, share in shares(asdict(weights)).items()
            if share and (term not in self.terms or share < self.min_share)
        }

    def point(self, weights: LossWeights) -> dict[str, float]:
        """A point whose weights these are, up to scale, and whose factors are 1."""
        terms = {name: value for name, value in asdict(weights).items() if name in self.terms}
        point = {term: -math.expm1(-share) for term, share in shares(terms).items()}
        return point | dict.fromkeys(self.also, 1.0)


def shares(values: Mapping[str, float]) -> dict[str, float]:
    """Named values divided by their sum; equal ones when all are 0."""
    total = sum(values.values())
    if not total:
        return dict.fromkeys(values, 1 / len(values))
    return {name: value / total for name, value in values.items()}


def short(weights: LossWeights) -> str:
    """The weights without those that are 0, as `--loss-weights` takes them."""
    return ",".join(f"{name}={value:g}" for name, value in asdict(weights).items() if value)
