"""The loss terms: a table of differentiable functions, each written as its formula reads.

Each function takes a model's output (B, 1, H, W), the targets and the output's kind, and returns
one value per image, (B,); lower is better.  `emlnet.losses.fused` computes some of them faster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from emlnet.data.maps import Kind, to_density, to_log_density
from emlnet.data.targets import Targets

PIXELS = (1, 2, 3)
"""Dimensions of a map (B, 1, H, W) without the batch."""
DENSITY_EPS = 1e-36
"""Added to a density before its logarithm is taken; smaller than any pixel's share."""
REFERENCE_EPS = 1e-6
"""Added twice in the KL of EML-NET's published training, see `kl_reference`."""
ROUNDING_ERRORS = 8
"""A map is constant if its deviation is below this many rounding errors of its mean."""
TermFunction = Callable[[Tensor, Targets, Kind], Tensor]


def kl(output: Tensor, targets: Targets, kind: Kind) -> Tensor:
    """KL divergence sum Q log(Q / P) of the density Q from the prediction P, nats."""
    q = targets.density
    return (q * ((q + DENSITY_EPS).log() - to_log_density(output, kind))).sum(PIXELS)


def kl_reference(output: Tensor, targets: Targets, kind: Kind) -> Tensor:
    """sum Q log(Q / (P + 1e-6) + 1e-6), which is not 0 at P = Q."""
    p, q = to_density(output, kind), targets.density
    return (q * (q / (p + REFERENCE_EPS) + REFERENCE_EPS).log()).sum(PIXELS)


def cc(output: Tensor, targets: Targets, kind: Kind) -> Tensor:
    """1 - CC, Pearson's correlation of prediction and density; a constant map has CC 0."""
    product = z_scores(to_density(output, kind)) * z_scores(targets.density)
    return 1 - product.mean(PIXELS)


def nss(output: Tensor, targets: Targets, kind: Kind) -> Tensor:
    """-NSS: the negative mean z-score at fixated pixels; 0 without fixations."""
    fixated = (targets.fixation_map() > 0).to(output)
    return -(z_scores(to_density(output, kind)) * fixated).sum(PIXELS) / _count(fixated)


def nss_reference(output: Tensor, targets: Targets, kind: Kind) -> Tensor:
    """sum(F (z(F) - z(P))) / sum(F) with fixated pixels F and unbiased standard deviations.

    The part with z(F) does not depend on the prediction.
    """
    fixated = (targets.fixation_map() > 0).to(output)
    difference = z_scores(fixated, 1) - z_scores(to_density(output, kind), 1)
    return (difference * fixated).sum(PIXELS) / _count(fixated)


def sim(output: Tensor, targets: Targets, kind: Kind) -> Tensor:
    """1 - SIM, with the histogram intersection of prediction and density."""
    return 1 - torch.minimum(to_density(output, kind), targets.density).sum(PIXELS)


def mse(output: Tensor, targets: Targets, kind: Kind) -> Tensor:
    """Mean squared error of prediction and density, each scaled to a maximum of 1.

    An `eml` map is not scaled: it is already in 0..1.
    """
    p, q = output, targets.density
    if kind == "density":
        p = (p - p.amax(PIXELS, keepdim=True)).exp()
    return (p - q / q.amax(PIXELS, keepdim=True)).square().mean(PIXELS)


def nll(output: Tensor, targets: Targets, kind: Kind) -> Tensor:
    """Mean negative log-likelihood of the fixations, nats per fixation; 0 without fixations."""
    image, counts = targets.index // output[0].numel(), targets.counts.to(output)
    fixated = to_log_density(output, kind).flatten()[targets.index]
    zeros = output.new_zeros(len(output))
    num_fixations = zeros.index_add(0, image, counts)
    return -zeros.index_add(0, image, fixated * counts) / num_fixations.clamp_min(1)


def z_scores(maps: Tensor, correction: int = 0) -> Tensor:
    """Scale maps (B, 1, H, W) to mean 0 and standard deviation 1; a constant map becomes zeros.

    correction: as in torch.var.
    """
    mean = maps.mean(PIXELS, keepdim=True)
    variance = maps.var(PIXELS, correction=correction, keepdim=True)
    constant = variance <= (ROUNDING_ERRORS * torch.finfo(maps.dtype).eps * mean).square()
    return torch.where(constant, 0, (maps - mean) / torch.where(constant, 1, variance).sqrt())


def _count(fixated: Tensor) -> Tensor:
    return fixated.sum(PIXELS).clamp_min(1)


@dataclass(frozen=True)
class LossTerm:
    """One row of the table.

    weight: the default.  reference: the function of EML-NET's published training, if it differs.
    """

    name: str
    weight: float
    function: TermFunction
    reference: TermFunction | None = None


TERMS = {
    term.name: term
    for term in (
        LossTerm("kl", 1.0, kl, kl_reference),
        LossTerm("cc", 1.0, cc),
        LossTerm("nss", 1.0, nss, nss_reference),
        LossTerm("sim", 0.0, sim),
        LossTerm("mse", 0.0, mse),
        LossTerm("nll", 0.0, nll),
    )
}
