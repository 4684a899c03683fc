"""KL, CC, NSS and SIM and their gradient, in one pass over each image.

This is the fast path of `emlnet.losses.terms`: autograd would keep a dozen full-size maps per term.
Here each image stays in the processor's cache, and only the gradient is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from emlnet.data.maps import TINY
from emlnet.losses.terms import DENSITY_EPS, REFERENCE_EPS, ROUNDING_ERRORS

FUSED = ("kl", "cc", "nss", "sim")
"""The terms that `FusedLoss` computes, in its order."""
CACHED_PIXELS = 1 << 19
"""Pixels of a batch to process at once on a CPU, so that they fit its cache."""


class FusedLoss(torch.autograd.Function):
    """The weighted sum (B,) of the terms `FUSED`, and the terms (4, B) without gradients.

    output: (B, N), a log-density if `is_log`, else a map >= 0.  density: (B, N), sums to 1.
    index: (P,) int64, distinct fixated pixels in the flattened (B, N).
    weights: by name; terms without a weight are 0.
    reference: compute KL and NSS as EML-NET's published training does.
    """

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        density: Tensor,
        index: Tensor,
        weights: Mapping[str, float],
        is_log: bool,
        reference: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted sum and the terms."""
        num_images, num_pixels = output.shape
        image = index // num_pixels
        values = output.reshape(-1)[index]
        values = values.exp() if is_log else values
        fixated_sum = output.new_zeros(num_images).index_add_(0, image, values)
        num_fixated = output.new_zeros(num_images).index_add_(0, image, torch.ones_like(values))
        step = max(1, CACHED_PIXELS // num_pixels) if output.device.type == "cpu" else num_images
        terms, slope = output.new_zeros(len(FUSED), num_images), torch.empty_like(num_fixated)
        gradient = torch.empty_like(output)
        for start in range(0, num_images, step):
            chunk = slice(start, start + step)
            terms[:, chunk], slope[chunk] = _compute(
                output[chunk],
                density[chunk],
                fixated_sum[chunk],
                num_fixated[chunk],
                weights,
                is_log,
                reference,
                gradient[chunk],
            )
        at_fixations = slope[image] * values if is_log else slope[image]
        gradient.view(-1).index_add_(0, index, at_fixations)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(terms)
        return torch.tensor([weights.get(name, 0.0) for name in FUSED]).to(terms) @ terms, terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient with respect to the output, (B, N)."""
        (gradient,) = ctx.saved_tensors
        return gradient * grad_total[:, None], None, None, None, None, None


def _compute(
    output: Tensor,
    q: Tensor,
    fixated_sum: Tensor,
    num_fixated: Tensor,
    weights: Mapping[str, float],
    is_log: bool,
    reference: bool,
    gradient: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the terms (4, b) of some images and the derivative (b,) at their fixated pixels.

    fixated_sum, num_fixated: (b,), the sum of the map at fixated pixels, and their number.
    Writes the rest of the gradient of the weighted sum into `gradient`, (b, N).
    """
    num_pixels = output.shape[1]
    kl_weight, cc_weight, nss_weight, sim_weight = (weights.get(name, 0.0) for name in FUSED)
    kl, cc, sim = output.new_zeros(3, len(output))
    p = output.exp() if is_log else output

    # CC and NSS: their derivatives are sums of the centred maps, a constant, and the fixations.
    total = p.sum(1)
    mean = total / num_pixels
    p_centred = p - mean[:, None]
    p_square = _dot(p_centred, p_centred)
    inverse_p = _inverse(p_square, p_square <= num_pixels * _rounding(mean).square())
    freedom = num_pixels - 1 if reference else num_pixels
    inverse_std = (freedom * inverse_p).sqrt() / num_fixated.clamp_min(1)
    nss = (fixated_sum - num_fixated * mean) * inverse_std
    by_p = nss_weight * nss * inverse_p
    if cc_weight:
        q_mean = q.mean(1)
        q_centred = q - q_mean[:, None]
        q_square = _dot(q_centred, q_centred)
        constant = (inverse_p == 0) | (q_square <= num_pixels * _rounding(q_mean).square())
        inverse_root = _inverse((p_square * q_square).sqrt(), constant)
        cc = _dot(p_centred, q_centred) * inverse_root
        by_p = by_p + cc_weight * cc * inverse_p
        torch.mul(q_centred, -cc_weight * inverse_root[:, None], out=gradient)
    else:
        gradient.zero_()
    gradient.addcmul_(p_centred, by_p[:, None])
    gradient.add_((nss_weight * num_fixated * inverse_std / num_pixels)[:, None])

    # KL and SIM: first their derivatives with respect to P = p / scale.
    is_plain_kl = is_log and not reference
    if sim_weight or (kl_weight and not is_plain_kl):
        scale = torch.ones_like(mean) if is_log else total.clamp_min(TINY)
        normalised = p if is_log else p / scale[:, None]
        if kl_weight and not is_plain_kl:
            kl, slope = _kl(normalised, q, reference)
            slope.mul_(kl_weight)
        else:
            slope = torch.zeros_like(p)
        if sim_weight:
            sim = 1 - torch.minimum(normalised, q).sum(1)
            # 1 where P is smaller, 1/2 where they are equal.
            slope.add_((q - normalised).sign_().add_(1), alpha=-sim_weight / 2)
        if not is_log:
            slope.sub_(_dot(slope, normalised)[:, None]).div_(scale[:, None])
        gradient.add_(slope)
    if is_log:
        gradient.mul_(p)
    if kl_weight and is_plain_kl:
        kl = _dot(q, (q + DENSITY_EPS).log_().sub_(output))
        gradient.add_(q, alpha=-kl_weight)
    best_nss = _best_nss(num_fixated, num_pixels) if reference else 0
    return torch.stack([kl, 1 - cc, best_nss - nss, sim]), -nss_weight * inverse_std


def _kl(p: Tensor, q: Tensor, reference: bool) -> tuple[Tensor, Tensor]:
    """Return the KL divergence (b,) of densities (b, N), and its gradient (b, N) for `p`."""
    if not reference:
        guarded = p + TINY
        ratio = q / guarded
        return _dot(q, (q + DENSITY_EPS).div_(guarded).log_()), ratio.neg_()
    ratio = q / (p + REFERENCE_EPS)
    guarded = ratio + REFERENCE_EPS
    slope = ratio.square_().div_(guarded).neg_()
    return _dot(q, guarded.log_()), slope


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Return the row-wise dot products (b,) of two (b, N)."""
    # BLAS sums long rows with errors of up to 1 % in float32.
    return (first * second).sum(1)


def _rounding(mean: Tensor) -> Tensor:
    """Return the deviation (b,) up to which maps with these means count as constant."""
    return ROUNDING_ERRORS * torch.finfo(mean.dtype).eps * mean


def _inverse(values: Tensor, zero: Tensor) -> Tensor:
    """Return 1 / values, and 0 where `zero` is true."""
    return torch.where(zero, 0, 1 / torch.where(zero, 1, values))


def _best_nss(num_fixated: Tensor, num_pixels: int) -> Tensor:
    """Return the NSS (b,) of the fixation map itself, with unbiased deviations."""
    variance = (num_fixated - num_fixated.square() / num_pixels) / (num_pixels - 1)
    return (1 - num_fixated / num_pixels) * _inverse(variance.sqrt(), variance <= 0)
