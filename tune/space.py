"""The search space: the numbers that a sampler draws, and the loss weights that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from emlnet.losses.weighted import LossWeights
from emlnet.training.state import Plan

BASELINE_WEIGHTS = LossWeights()
"""The baseline: KL, CC and NSS at 1:1:1."""
KL_LED = LossWeights(kl=10, cc=2, nss=1)
"""Close to the weights of TranSalNet and SUM: KL 10, CC 2, SIM 1, NSS 1."""
TOTAL = sum(asdict(BASELINE_WEIGHTS).values())
"""Sum of the weights of every trial.  It is fixed because a common factor acts as a learning rate
under SGD and changes gradient clipping.  Under AdamW only the ratios matter."""
FACTORS = {"lr": (1 / 3, 3.0), "width": (0.5, 2.0)}
"""Range of each factor on the command's own value; sampled log-uniformly."""

Point = Mapping[str, float]
"""A number for each dimension, as a sampler draws it."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """Values to search; all shares of the sum of the loss weights are equally likely."""

    extra_terms: tuple[Literal["sim", "mse", "nll"], ...] = ()
    """Loss terms to weigh in addition to kl, cc and nss."""
    min_share: float = 0.05
    """A term with a smaller share of the sum of the weights gets weight 0."""
    also: tuple[Literal["lr", "width"], ...] = ()
    """Other numbers to search: `lr`, from a third to three times the given one; `width` of the
    readouts (or of the decoder), from half to twice the given one."""

    def __post_init__(self) -> None:
        for names in (self.extra_terms, self.also):
            if len(set(names)) < len(names):
                raise ValueError(f"give each name once, not {' '.join(names)}")
        if self.min_share < 0:
            raise ValueError(f"a share must be at least 0, not {self.min_share}")
        if self.min_share >= 1 / len(self.terms):
            raise ValueError(
                f"{len(self.terms)} terms cannot each have a share of at least {self.min_share}"
            )

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms whose weights are searched; all others have weight 0."""
        return ("kl", "cc", "nss", *self.extra_terms)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the range of each number that a sampler draws, by name."""
        return {**dict.fromkeys(self.terms, (0.0, 0.9999)), **{n: FACTORS[n] for n in self.also}}

    def plan(self, point: Point, plan: Plan) -> Plan:
        """Return the plan with the loss weights and the learning rate of a point."""
        lr = float(f"{plan.lr * point.get('lr', 1.0):.3g}")
        return replace(plan, loss_weights=self.weights(point), lr=lr)

    def width(self, point: Point, width: int) -> int:
        """Return the hidden channels times the point's factor, rounded to a multiple of 4."""
        factor = point.get("width", 1.0)
        return width if factor == 1 else max(4, 4 * round(width * factor / 4))

    def weights(self, point: Point) -> LossWeights:
        """Return the loss weights at a point; they sum to TOTAL, rounded to 4 decimals.

        The point's uniform numbers become exponential ones.  Their shares of the sum are then
        uniform on the simplex (Dirichlet, all concentrations 1).
        """
        drawn = shares({term: -math.log1p(-point[term]) for term in self.terms})
        kept = shares({t: share if share >= self.min_share else 0.0 for t, share in drawn.items()})
        zeros = dict.fromkeys(asdict(BASELINE_WEIGHTS), 0.0)
        return LossWeights(**zeros | {t: round(share * TOTAL, 4) for t, share in kept.items()})

    def excluded(self, weights: LossWeights) -> dict[str, float]:
        """Return the shares of terms that are not searched, and shares below `min_share`."""
        return {
            term: share
            for term, share in shares(asdict(weights)).items()
            if share and (term not in self.terms or share < self.min_share)
        }

    def point(self, weights: LossWeights) -> dict[str, float]:
        """Return a point with these weights, up to a common scale, and all factors 1."""
        terms = {name: value for name, value in asdict(weights).items() if name in self.terms}
        point = {term: -math.expm1(-share) for term, share in shares(terms).items()}
        return point | dict.fromkeys(self.also, 1.0)


def shares(values: Mapping[str, float]) -> dict[str, float]:
    """Return named values divided by their sum; equal shares when all are 0."""
    total = sum(values.values())
    if not total:
        return dict.fromkeys(values, 1 / len(values))
    return {name: value / total for name, value in values.items()}


def short(weights: LossWeights) -> str:
    """Return the weights that are not 0, as `--loss-weights` takes them."""
    return ",".join(f"{name}={value:g}" for name, value in asdict(weights).items() if value)
