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

from emlnet.maps import TINY, Kind, to_density, to_log_density
from emlnet.sample import Targets
from emlnet.views import by_frame

Terms = Literal["exact", "reference"]
"""`exact`: the terms as defined.  `reference`: the values of EML-NET's published training."""

REFERENCE_EPS = 1e-6
SMALLEST = 1e-36
"""Below any product of two maps' deviations that is not a constant map's, in float32."""


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
    compute = exact_terms if terms == "exact" else reference_terms
    values = by_frame(
        output.float(), targets, kind, lambda maps, gaze: compute(maps, gaze, weights, kind)
    )
    total = sum(getattr(weights, name) * value for name, value in values.items())
    return torch.as_tensor(total), values


def exact_terms(
    output: Tensor, targets: Targets, weights: LossWeights, kind: Kind
) -> dict[str, Tensor]:
    """Each weighted term by name, (B,): KL, 1 - CC, -NSS, 1 - SIM, MSE."""
    q, p = targets.density, to_density(output, kind)
    terms = {}
    if weights.kl:
        log_p = to_log_density(output, kind)
        terms["kl"] = (torch.xlogy(q, q) - q * log_p).sum((1, 2, 3))
    if weights.cc:
        terms["cc"] = 1 - _correlation(p, q)
    if weights.nss:
        terms["nss"] = -_at_fixations(p, targets)
    if weights.sim:
        terms["sim"] = 1 - torch.minimum(p, q).sum((1, 2, 3))
    if weights.mse:
        peak = output if kind == "eml" else p / p.amax((2, 3), keepdim=True)
        difference = peak - q / q.amax((2, 3), keepdim=True)
        terms["mse"] = difference.square().mean((1, 2, 3))
    return terms


def reference_terms(
    output: Tensor, targets: Targets, weights: LossWeights, kind: Kind
) -> dict[str, Tensor]:
    """Terms with the values that EML-NET's authors compute, constants and all.

    KL is sum Q log(Q / (P + 1e-6) + 1e-6), not 0 at P = Q; NSS is sum(z(F) F - z(P) F) / sum(F)
    with the unbiased standard deviation, whose z(F) part does not depend on P.
    """
    q, p = targets.density, to_density(output, kind)
    terms = exact_terms(output, targets, weights, kind)
    if weights.kl:
        ratio = q / (p + REFERENCE_EPS) + REFERENCE_EPS
        terms["kl"] = (q * ratio.log()).sum((1, 2, 3))
    if weights.nss:
        fixated = (targets.fixation_map() > 0).float()
        best = _at_fixations(fixated, targets, correction=1)
        terms["nss"] = best - _at_fixations(p, targets, correction=1)
    return terms


def _correlation(p: Tensor, q: Tensor) -> Tensor:
    """Pearson's correlation of two maps, (B,); 0 for a constant one."""
    p = p - p.mean((2, 3), keepdim=True)
    q = q - q.mean((2, 3), keepdim=True)
    scale = p.square().sum((1, 2, 3)) * q.square().sum((1, 2, 3))
    return (p * q).sum((1, 2, 3)) / scale.clamp_min(SMALLEST).sqrt()


def _at_fixations(p: Tensor, targets: Targets, correction: int = 0) -> Tensor:
    """Mean z-score of each map at its fixated pixels, each pixel once, (B,)."""
    deviation, mean = torch.std_mean(p.flatten(1), 1, correction=correction)
    owner = targets.owner
    values = p.reshape(-1)[targets.index]
    num = torch.zeros_like(mean).index_add_(0, owner, torch.ones_like(values))
    total = torch.zeros_like(mean).index_add_(0, owner, values)
    return (total - num * mean) / (num.clamp_min(1) * deviation.clamp_min(TINY))
