"""KL, CC, NSS and SIM in one pass over each image, with a hand-derived gradient.

The fast path behind `emlnet.losses.terms`: autograd would keep a dozen full-size maps per term.
Here each image stays in the processor's cache, and only the gradient outlives a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from emlnet.data.maps import TINY
from emlnet.losses.terms import DENSITY_EPS, REFERENCE_EPS, ROUNDING_ERRORS

FUSED = ("kl", "cc", "nss", "sim")
"""The terms that `FusedTerms` computes, in its order."""
CACHED_PIXELS = 1 << 19
"""Pixels of a batch to process at once on a CPU, so that the work fits its cache."""


class FusedTerms(torch.autograd.Function):
    """The terms `FUSED` of each image, (4, B); those not in `names` are 0.

    output: (B, N), a log-density if `is_log`, else a map >= 0.  density: (B, N), sums to 1.
    index: (P,) int64, fixated pixels in the flattened (B, N), each once.
    reference: compute KL and NSS as EML-NET's published training does.
    """

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        density: Tensor,
        index: Tensor,
        names: frozenset[str],
        is_log: bool,
        reference: bool,
    ) -> Tensor:
        """Return the terms, (4, B)."""
        num_images, num_pixels = output.shape
        p_sum, p_square, product, q_sum, q_square, kl, sim = output.new_zeros(7, num_images)
        for rows, work in _chunks(output):
            p, q = _values(output[rows], is_log, work[0]), density[rows]
            p_sum[rows], q_sum[rows] = p.sum(1), q.sum(1)
            p_centred = torch.sub(p, (p_sum[rows] / num_pixels)[:, None], out=work[1])
            p_square[rows] = _dot(p_centred, p_centred, work[2])
            if "cc" in names:
                q_centred = torch.sub(q, (q_sum[rows] / num_pixels)[:, None], out=work[2])
                product[rows] = _dot(p_centred, q_centred, work[1])
                q_square[rows] = _dot(q_centred, q_centred, work[1])
            scale = _scale(p_sum[rows], is_log)
            if "kl" in names and is_log and not reference:
                log_q = torch.add(q, DENSITY_EPS, out=work[1]).log_()
                kl[rows] = _dot(q, log_q.sub_(output[rows]), work[1])
            elif "kl" in names:
                ratio = _ratio(p, q, scale, reference, work)
                kl[rows] = _dot(q, ratio.log_(), ratio) + q_sum[rows] * scale.log()
            if "sim" in names:
                normalised = torch.div(p, scale[:, None], out=work[1])
                sim[rows] = 1 - torch.minimum(normalised, q, out=normalised).sum(1)
        fixated = _at(output, index, is_log)
        image = index // num_pixels
        fixated_sum = p_sum.new_zeros(num_images).index_add_(0, image, fixated)
        num_fixated = p_sum.new_zeros(num_images).index_add_(0, image, torch.ones_like(fixated))
        inverse_square = _inverse(p_square, _is_constant(p_square, p_sum, num_pixels))
        constant = (inverse_square == 0) | _is_constant(q_square, q_sum, num_pixels)
        inverse_root = _inverse((p_square * q_square).sqrt(), constant)
        freedom = num_pixels - 1 if reference else num_pixels
        inverse_std = (freedom * inverse_square).sqrt() / num_fixated.clamp_min(1)
        cc = product * inverse_root
        nss = (fixated_sum - num_fixated * p_sum / num_pixels) * inverse_std
        ctx.save_for_backward(output, density, index)
        ctx.sums = _Sums(p_sum, num_fixated, cc, nss, inverse_square, inverse_root, inverse_std)
        ctx.options = names, is_log, reference
        best_nss = _best_nss(num_fixated, num_pixels) if reference else 0
        return torch.stack([kl, 1 - cc, best_nss - nss, sim])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient with respect to the output, (B, N)."""
        output, density, index = ctx.saved_tensors
        names, is_log, reference = ctx.options
        sums: _Sums = ctx.sums
        kl, cc, nss, sim = gradients
        num_pixels = output.shape[1]
        # CC and NSS: by_p * p + by_q * q + constant, and by_fixation at fixated pixels.
        by_p = (cc * sums.cc + nss * sums.nss) * sums.inverse_square
        by_q = -cc * sums.inverse_root
        by_fixation = -nss * sums.inverse_std
        constant = -(by_p * sums.p_sum + by_q + by_fixation * sums.num_fixated) / num_pixels
        scale = _scale(sums.p_sum, is_log)
        gradient = output.new_empty(output.shape)
        for rows, work in _chunks(output):
            p, q = _values(output[rows], is_log, work[0]), density[rows]
            result = torch.mul(p, by_p[rows, None], out=gradient[rows])
            result.addcmul_(q, by_q[rows, None])
            rest = constant[rows]
            if "kl" in names and (reference or not is_log):
                slope = _kl_slope(p, q, scale[rows], reference, work)
                if not is_log:
                    rest = rest + kl[rows] * _dot(slope, p, work[2]) / scale[rows]
                result.addcmul_(slope, -kl[rows, None])
            if "sim" in names:
                normalised = torch.div(p, scale[rows, None], out=work[1])
                # 1 where p is the smaller, 1/2 where they are equal.
                below = torch.sub(q, normalised, out=work[2]).sign_().add_(1).mul_(0.5)
                if not is_log:
                    rest = rest + sim[rows] * _dot(below, normalised, normalised) / scale[rows]
                result.addcmul_(below, -(sim / scale)[rows, None])
            result.add_(rest[:, None])
            if is_log:
                result.mul_(p)
            if "kl" in names and is_log and not reference:
                result.addcmul_(q, -kl[rows, None])
        at_fixations = by_fixation[index // num_pixels]
        if is_log:
            at_fixations = at_fixations * _at(output, index, is_log)
        gradient.view(-1).index_add_(0, index, at_fixations)
        return gradient, None, None, None, None, None


class _Sums(NamedTuple):
    """Values (B,) that the gradient needs; an inverse is 0 where a map is constant."""

    p_sum: Tensor
    num_fixated: Tensor
    cc: Tensor
    nss: Tensor
    inverse_square: Tensor
    inverse_root: Tensor
    inverse_std: Tensor


def _chunks(output: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of a batch (B, N) to process at once, and buffers (3, rows, N) for them."""
    num_images, num_pixels = output.shape
    step = max(1, CACHED_PIXELS // num_pixels) if output.device.type == "cpu" else num_images
    work = output.new_empty(3, min(step, num_images), num_pixels)
    for start in range(0, num_images, step):
        rows = slice(start, min(start + step, num_images))
        yield rows, work[:, : rows.stop - start]


def _values(output: Tensor, is_log: bool, out: Tensor) -> Tensor:
    return torch.exp(output, out=out) if is_log else output


def _at(output: Tensor, index: Tensor, is_log: bool) -> Tensor:
    """Return the map at fixated pixels, (P,)."""
    values = output.reshape(-1)[index]
    return values.exp() if is_log else values


def _dot(first: Tensor, second: Tensor, out: Tensor) -> Tensor:
    """Return the sums of products of (b, N), (b,); overwrites `out`.

    BLAS adds up long runs, with errors of up to 1 % in float32.
    """
    return torch.mul(first, second, out=out).sum(1)


def _scale(p_sum: Tensor, is_log: bool) -> Tensor:
    """Return the divisor that makes a map a density, (B,)."""
    return torch.ones_like(p_sum) if is_log else p_sum.clamp_min(TINY)


def _ratio(p: Tensor, q: Tensor, scale: Tensor, reference: bool, work: Tensor) -> Tensor:
    """Return the guarded ratio of density and prediction, divided by `scale`, (b, N)."""
    guarded = _guarded(p, scale, reference, work[1])
    if reference:
        return torch.addcdiv((REFERENCE_EPS / scale)[:, None], q, guarded, out=guarded)
    return torch.add(q, DENSITY_EPS, out=work[2]).div_(guarded)


def _kl_slope(p: Tensor, q: Tensor, scale: Tensor, reference: bool, work: Tensor) -> Tensor:
    """Return minus the derivative of KL by each pixel's value at a constant `scale`, (b, N)."""
    guarded = _guarded(p, scale, reference, work[1])
    slope = torch.div(q, guarded, out=guarded)
    if reference:
        ratio = torch.add(slope, (REFERENCE_EPS / scale)[:, None], out=work[2])
        slope.mul_(slope).div_(ratio)
    return slope


def _guarded(p: Tensor, scale: Tensor, reference: bool, out: Tensor) -> Tensor:
    """Return the map plus a small value, so that it can be divided by, (b, N)."""
    eps = REFERENCE_EPS if reference else TINY
    return torch.add(p, (eps * scale)[:, None], out=out)


def _is_constant(square: Tensor, total: Tensor, num_pixels: int) -> Tensor:
    """Return whether maps are constant up to rounding, from their squared deviations and sums."""
    error = ROUNDING_ERRORS * torch.finfo(total.dtype).eps * total / num_pixels
    return square <= num_pixels * error.square()


def _inverse(values: Tensor, zero: Tensor) -> Tensor:
    """Return 1 / values, and 0 where `zero` is true."""
    return torch.where(zero, 0, 1 / torch.where(zero, 1, values))


def _best_nss(num_fixated: Tensor, num_pixels: int) -> Tensor:
    """Return the NSS of the fixated pixels themselves as a map, with unbiased deviations, (B,)."""
    variance = (num_fixated - num_fixated.square() / num_pixels) / (num_pixels - 1)
    return (1 - num_fixated / num_pixels) * _inverse(variance.sqrt(), variance <= 0)
