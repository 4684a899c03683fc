"""Training losses on saliency: KL, CC, NSS, SIM and MSE terms, one value per image, and their sum.

from emlnet.losses import LossWeights, saliency_loss
loss, terms = saliency_loss(model(image), targets, LossWeights(kl=10, cc=2, nss=1))
loss.mean().backward()
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from emlnet.data.framing import by_frame
from emlnet.data.maps import Kind
from emlnet.data.samples import Targets
from emlnet.losses.fused import MapTerms

Terms = Literal["exact", "reference"]
"""`exact`: the terms as defined.  `reference`: the values of EML-NET's published training."""


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the loss terms; each term is one number per image, lower is better."""

    kl: float = 1.0
    """KL divergence of the density from the prediction, nats."""
    cc: float = 1.0
    """1 - CC, Pearson's correlation of prediction and density."""
    nss: float = 1.0
    """-NSS, the mean z-score of the prediction at fixated pixels."""
    sim: float = 0.0
    """1 - SIM, the histogram intersection of the two densities."""
    mse: float = 0.0
    """Mean squared error of prediction and density, each scaled to a maximum of 1; an `eml` map,
    which is in 0..1, stays as it is."""

    def __post_init__(self) -> None:
        values = asdict(self).values()
        if not all(math.isfinite(v) and v >= 0 for v in values) or not any(values):
            raise ValueError(f"loss weights are >= 0 and not all 0, and finite: {self}")

    @classmethod
    def parse(cls, text: str) -> LossWeights:
        """From `kl=10,cc=2,nss=1`; terms that are not named weigh 0."""
        given: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = (word.strip() for word in part.partition("="))
            try:
                if name in given or name not in cls.__dataclass_fields__:
                    raise ValueError(name)
                given[name] = float(value)
            except ValueError:
                raise ValueError(
                    "loss weights are written kl=10,cc=2,nss=1,sim=0,mse=0, each term once, "
                    f"not {text!r}"
                ) from None
        return cls(**{name: given.get(name, 0.0) for name in cls.__dataclass_fields__})

    def __str__(self) -> str:
        return ",".join(
            f"{name}={float(value)!r}".removesuffix(".0") for name, value in asdict(self).items()
        )


def saliency_loss(
    output: Tensor,
    targets: Targets,
    weights: LossWeights,
    kind: Kind = "density",
    terms: Terms = "exact",
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the terms, and the unweighted terms that have a weight.

    output: (B, 1, H, W), a log-density (kind `density`) or a map >= 0 (`eml`).
    Returns (B,) the sum, and each term by name, (B,).
    Images without a fixation have an NSS term of 0; a letterbox's padding takes no part.
    """
    wanted = frozenset(name for name, weight in asdict(weights).items() if weight)

    def compute(maps: Tensor, gaze: Targets) -> dict[str, Tensor]:
        return map_terms(maps, gaze, wanted, kind, terms)

    values = by_frame(output.float(), targets, kind, compute)
    total = sum(getattr(weights, name) * value for name, value in values.items())
    return torch.as_tensor(total), values


def map_terms(
    output: Tensor, targets: Targets, names: frozenset[str], kind: Kind, terms: Terms
) -> dict[str, Tensor]:
    """The named terms, (B,) each: KL, 1 - CC, -NSS, 1 - SIM, MSE.

    `reference` has the values that EML-NET's authors compute, constants and all: KL is
    sum Q log(Q / (P + 1e-6) + 1e-6), not 0 at P = Q; NSS is sum(z(F) F - z(P) F) / sum(F) with the
    unbiased standard deviation, whose z(F) part does not depend on P.
    """
    q = targets.density
    computed = MapTerms.apply(
        output.flatten(1),
        q.flatten(1),
        targets.index,
        names,
        kind == "density",
        terms == "reference",
    )
    values = dict(zip(("kl", "cc", "nss", "sim"), computed, strict=True))
    if "mse" in names:
        values["mse"] = _mse(output, q, kind)
    return {name: value for name, value in values.items() if name in names}


def _mse(output: Tensor, density: Tensor, kind: Kind) -> Tensor:
    """Mean squared difference of the maps, each at a maximum of 1, (B,); an `eml` map as it is."""
    peak = output
    if kind == "density":
        peak = (output - output.amax((2, 3), keepdim=True)).exp()
    return (peak - density / density.amax((2, 3), keepdim=True)).square().mean((1, 2, 3))
