"""The training loss: a weighted sum of the terms in `emlnet.losses.terms`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, make_dataclass
from typing import Any, Literal

from torch import Tensor

from emlnet.data.maps import Kind
from emlnet.data.targets import Targets, by_frame
from emlnet.losses.fused import FUSED, FusedLoss
from emlnet.losses.terms import TERMS

Terms = Literal["exact", "reference"]
"""`exact`: the terms as defined.  `reference`: the values of EML-NET's published training."""

TOTAL = "total"
"""Name of the weighted sum."""

_Weights: Any = make_dataclass(
    "_Weights",
    [(name, float, term.weight) for name, term in TERMS.items()],
    frozen=True,
    kw_only=True,
)


@dataclass(frozen=True, kw_only=True)
class LossWeights(_Weights):  # type: ignore[misc]
    """The weight of each loss term, at least 0; one field per row of `TERMS`."""

    def __post_init__(self) -> None:
        values = asdict(self).values()
        if not all(math.isfinite(v) and v >= 0 for v in values) or not any(values):
            raise ValueError(f"loss weights must be finite, >= 0 and not all 0, not {self}")

    @property
    def nonzero(self) -> dict[str, float]:
        """The weights that are not 0, by name."""
        return {name: weight for name, weight in asdict(self).items() if weight}

    @classmethod
    def parse(cls, text: str) -> LossWeights:
        """Parse `kl=10,cc=2,nss=1`; other terms get a weight of 0."""
        pairs = [part.partition("=") for part in text.split(",")]
        names = [name.strip() for name, _, _ in pairs]
        try:
            weights = dict(zip(names, (float(value) for _, _, value in pairs), strict=True))
        except ValueError:
            weights = {}
        if len(weights) < len(names) or not weights.keys() <= TERMS.keys():
            example = ",".join(f"{name}=W" for name in TERMS)
            raise ValueError(
                f"loss weights are written {example}, each term at most once, not {text!r}"
            )
        return cls(**{**dict.fromkeys(TERMS, 0.0), **weights})

    def __str__(self) -> str:
        texts = {name: f"{float(value)!r}".removesuffix(".0") for name, value in vars(self).items()}
        return ",".join(f"{name}={text}" for name, text in texts.items())


def saliency_loss(
    output: Tensor,
    targets: Targets,
    weights: LossWeights,
    kind: Kind = "density",
    terms: Terms = "exact",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of the terms, and each term that has a weight; (B,) each.

    output: (B, 1, H, W), a log-density (kind `density`) or a map >= 0 (`eml`).  Padding is ignored.
    The returned terms are not weighted and have no gradient.
    """
    by_name = weights.nonzero
    losses = by_frame(
        output.float(), targets, kind, lambda maps, part: _losses(maps, part, by_name, kind, terms)
    )
    return losses[TOTAL], {name: losses[name] for name in by_name}


def _losses(
    output: Tensor, targets: Targets, weights: dict[str, float], kind: Kind, terms: Terms
) -> dict[str, Tensor]:
    """Return the weighted sum and each term, (B,); `FUSED` terms take the fast path."""
    maps, density, is_log = output.flatten(1), targets.density.flatten(1), kind == "density"
    reference = terms == "reference"
    total, fused = FusedLoss.apply(maps, density, targets.index, weights, is_log, reference)
    losses = dict(zip(FUSED, fused, strict=True))
    for name in weights:  # In a fixed order, which determines the rounding of the sum.
        if name in FUSED:
            continue
        term = TERMS[name]
        function = (reference and term.reference) or term.function
        value = function(output, targets, kind)
        total = total + weights[name] * value
        losses[name] = value.detach()
    return {TOTAL: total, **losses}
