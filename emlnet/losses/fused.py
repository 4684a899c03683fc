"""The arithmetic of the loss terms: sums and products, image by image, with their own gradient.

Autograd would keep a dozen full-size maps and walk through memory for each.  Here an image's few
passes stay in the processor's cache, fixations are points that are gathered, and nothing of full
size outlives a call but the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from emlnet.data.maps import TINY
from emlnet.metrics.flat_maps import log
from emlnet.metrics.formulas import PIXELS_AT_ONCE

REFERENCE_EPS = 1e-6
"""What EML-NET's authors add within their KL."""
SMALLEST = 1e-36
"""Added to a density whose logarithm is taken; below any pixel's share of it."""
ROUNDING = 8
"""Deviations from a map's mean of less than so many roundings of it are none."""


class MapTerms(torch.autograd.Function):
    """KL, 1 - CC, -NSS and 1 - SIM of each image, (4, B); those that are not asked for are 0.

    output: (B, N), a log-density, or a map >= 0.  density: (B, N), sums to 1.
    index: (P,) int64, fixated pixels in the flattened (B, N), each once.
    names: the terms that are wanted.  logarithmic: whether the output is a log-density.
    reference: the KL and the standard deviation of EML-NET's authors.
    A map that is constant but for rounding has a CC and an NSS of 0, and no gradient of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        density: Tensor,
        index: Tensor,
        names: frozenset[str],
        logarithmic: bool,
        reference: bool,
    ) -> Tensor:
        """The terms, (4, B)."""
        num_images, num_pixels = output.shape
        total, square, product, q_sum, q_square, kl, sim = output.new_zeros(7, num_images)
        for rows, work in _rows(output):
            values, q = _values(output[rows], logarithmic, work[0]), density[rows]
            total[rows], q_sum[rows] = values.sum(1), q.sum(1)
            centred = torch.sub(values, (total[rows] / num_pixels)[:, None], out=work[1])
            square[rows] = _dot(centred, centred, work[2])
            if "cc" in names:
                q_centred = torch.sub(q, (q_sum[rows] / num_pixels)[:, None], out=work[2])
                product[rows] = _dot(centred, q_centred, work[1])
                q_square[rows] = _dot(q_centred, q_centred, work[1])
            scale = _scale(total[rows], logarithmic)
            if "kl" in names and logarithmic and not reference:
                logarithm = log(torch.add(q, SMALLEST, out=work[1]))
                kl[rows] = _dot(q, logarithm.sub_(output[rows]), work[1])
            elif "kl" in names:
                ratio = _ratio(values, q, scale, reference, work)
                kl[rows] = _dot(q, log(ratio), ratio) + q_sum[rows] * scale.log()
            if "sim" in names:
                p = torch.div(values, scale[:, None], out=work[1])
                sim[rows] = 1 - torch.minimum(p, q, out=p).sum(1)
        seen = _seen(output, index, logarithmic)
        owner = index // num_pixels
        fixated = total.new_zeros(num_images).index_add_(0, owner, seen)
        number = total.new_zeros(num_images).index_add_(0, owner, torch.ones_like(seen))
        per_square = _inverse(square, _is_flat(square, total, num_pixels))
        flat = (per_square == 0) | _is_flat(q_square, q_sum, num_pixels)
        per_root = _inverse((square * q_square).sqrt(), flat)
        freedom = num_pixels - 1 if reference else num_pixels
        per_deviation = (freedom * per_square).sqrt() / number.clamp_min(1)
        cc = product * per_root
        nss = (fixated - number * total / num_pixels) * per_deviation
        ctx.save_for_backward(output, density, index)
        ctx.sums = _Sums(total, number, cc, nss, per_square, per_root, per_deviation)
        ctx.options = names, logarithmic, reference
        constant = _best_nss(number, num_pixels) if reference else 0
        return torch.stack([kl, 1 - cc, constant - nss, sim])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the output, (B, N)."""
        output, density, index = ctx.saved_tensors
        names, logarithmic, reference = ctx.options
        sums: _Sums = ctx.sums
        kl, cc, nss, sim = given
        num_pixels = output.shape[1]
        # CC and NSS: own * value + other * density + constant, and `at` where somebody looked.
        own = (cc * sums.cc + nss * sums.nss) * sums.per_square
        other = -cc * sums.per_root
        at = -nss * sums.per_deviation
        constant = -(own * sums.total + other + at * sums.number) / num_pixels
        scale = _scale(sums.total, logarithmic)
        gradient = output.new_empty(output.shape)
        for rows, work in _rows(output):
            values, q = _values(output[rows], logarithmic, work[0]), density[rows]
            result = torch.mul(values, own[rows, None], out=gradient[rows])
            result.addcmul_(q, other[rows, None])
            rest = constant[rows]
            if "kl" in names and (reference or not logarithmic):
                slope = _slope(values, q, scale[rows], reference, work)
                if not logarithmic:
                    rest = rest + kl[rows] * _dot(slope, values, work[2]) / scale[rows]
                result.addcmul_(slope, -kl[rows, None])
            if "sim" in names:
                p = torch.div(values, scale[rows, None], out=work[1])
                below = torch.sub(q, p, out=work[2]).sign_().add_(1).mul_(0.5)  # A tie is half.
                if not logarithmic:
                    rest = rest + sim[rows] * _dot(below, p, p) / scale[rows]
                result.addcmul_(below, -(sim / scale)[rows, None])
            result.add_(rest[:, None])
            if logarithmic:
                result.mul_(values)
            if "kl" in names and logarithmic and not reference:
                result.addcmul_(q, -kl[rows, None])
        here = at[index // num_pixels]
        if logarithmic:
            here = here * _seen(output, index, logarithmic)
        gradient.view(-1).index_add_(0, index, here)
        return gradient, None, None, None, None, None


class _Sums(NamedTuple):
    """What the gradient needs of each image, (B,): `per_x` is 1 / x, or 0 where that is none."""

    total: Tensor
    number: Tensor
    cc: Tensor
    nss: Tensor
    per_square: Tensor
    per_root: Tensor
    per_deviation: Tensor


def _rows(output: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Images to take at once, with space (3, b, N) to work in: on a processor, what its cache
    holds; elsewhere all.
    """
    num_images, num_pixels = output.shape
    step = max(1, PIXELS_AT_ONCE // num_pixels) if output.device.type == "cpu" else num_images
    work = output.new_empty(3, min(step, num_images), num_pixels)
    for start in range(0, num_images, step):
        rows = slice(start, min(start + step, num_images))
        yield rows, work[:, : rows.stop - start]


def _values(output: Tensor, logarithmic: bool, out: Tensor) -> Tensor:
    """The map itself: exp of a log-density."""
    return torch.exp(output, out=out) if logarithmic else output


def _seen(output: Tensor, index: Tensor, logarithmic: bool) -> Tensor:
    """The map at fixated pixels, (P,)."""
    seen = output.reshape(-1)[index]
    return seen.exp() if logarithmic else seen


def _dot(first: Tensor, second: Tensor, out: Tensor) -> Tensor:
    """Sums of products of (b, N), (b,); those are left in `out`.

    BLAS adds up in long runs, which in float32 are off by up to a hundredth.
    """
    return torch.mul(first, second, out=out).sum(1)


def _scale(total: Tensor, logarithmic: bool) -> Tensor:
    """What a map is divided by to sum to 1, (B,)."""
    return torch.ones_like(total) if logarithmic else total.clamp_min(TINY)


def _ratio(values: Tensor, q: Tensor, scale: Tensor, reference: bool, work: Tensor) -> Tensor:
    """Density over prediction, divided by `scale`, guards and all, (b, N)."""
    below = _guarded(values, scale, reference, work[1])
    if reference:
        return torch.addcdiv((REFERENCE_EPS / scale)[:, None], q, below, out=below)
    return torch.add(q, SMALLEST, out=work[2]).div_(below)


def _slope(values: Tensor, q: Tensor, scale: Tensor, reference: bool, work: Tensor) -> Tensor:
    """How KL falls when a pixel's value alone rises, were `scale` to stay, (b, N)."""
    below = _guarded(values, scale, reference, work[1])
    slope = torch.div(q, below, out=below)
    if reference:
        guarded = torch.add(slope, (REFERENCE_EPS / scale)[:, None], out=work[2])
        slope.mul_(slope).div_(guarded)
    return slope


def _guarded(values: Tensor, scale: Tensor, reference: bool, out: Tensor) -> Tensor:
    """The map with what keeps a division by it finite, (b, N)."""
    eps = REFERENCE_EPS if reference else TINY
    return torch.add(values, (eps * scale)[:, None], out=out)


def _is_flat(square: Tensor, total: Tensor, num_pixels: int) -> Tensor:
    """Whether maps vary by rounding alone, by the squares of their deviations and their sums."""
    rounding = ROUNDING * torch.finfo(total.dtype).eps * total / num_pixels
    return square <= num_pixels * rounding.square()


def _inverse(values: Tensor, none: Tensor) -> Tensor:
    """1 / x, and 0 where there is none."""
    return torch.where(none, 0, 1 / torch.where(none, 1, values))


def _best_nss(number: Tensor, num_pixels: int) -> Tensor:
    """The NSS of a fixation map with itself, each pixel once, standard deviation unbiased."""
    variance = (number - number.square() / num_pixels) / (num_pixels - 1)
    return (1 - number / num_pixels) * _inverse(variance.sqrt(), variance <= 0)
