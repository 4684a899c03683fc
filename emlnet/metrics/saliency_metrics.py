"""Metrics of saliency maps and densities under two rule books, one value per image.

`mit` follows the MIT benchmark's MATLAB code (Bylinskii et al.), `tuebingen` follows pysaliency,
which the MIT/Tuebingen benchmark uses.  `score` takes maps (B, 1, H, W) on any device.
A new metric is one function and one row of `TABLE`, which evaluation, tables, reports, model
selection and search read.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from emlnet.data.maps import TINY
from emlnet.metrics.flat_maps import (
    PIXELS_AT_ONCE,
    FixatedPixels,
    FlattenedMaps,
    dot,
    pad_rows,
    sort_rows,
)
from emlnet.metrics.roc import area_at_positives, area_in_steps, area_with_ties, random_integers

Rules = Literal["mit", "tuebingen"]
"""The rule book: `mit`, the MIT benchmark's MATLAB; `tuebingen`, pysaliency."""
RULES: tuple[Rules, ...] = ("mit", "tuebingen")

NUM_SPLITS = 100
"""Random sets of negatives that the `mit` AUC-Borji and sAUC average over."""
EPS = torch.finfo(torch.float64).eps
"""MATLAB's eps, about 2.2e-16, which the `mit` KL and IG add."""


def nss_mit(saliency: FlattenedMaps, fixations: FixatedPixels) -> Tensor:
    """Mean z-score at the fixated pixels; the variance divides by H * W - 1.

    A pixel counts once, however many fixations it has.  Chance is 0, a constant map scores 0.
    Source: Peters et al. 2005.
    """
    mean = fixations.total(fixations.of_maps(saliency.centred)) / fixations.num_pixels
    return _per_deviation(mean, saliency, saliency.raw.shape[1] - 1)


def nss_tuebingen(saliency: FlattenedMaps, fixations: FixatedPixels) -> Tensor:
    """Mean z-score over all fixations; the variance divides by H * W."""
    values = fixations.of_maps(saliency.centred) * fixations.counts
    mean = fixations.total(values) / fixations.num_fixations
    return _per_deviation(mean, saliency, saliency.raw.shape[1])


def _per_deviation(mean: Tensor, saliency: FlattenedMaps, divisor: int) -> Tensor:
    variance = saliency.sum_of_squares / divisor
    flat = saliency.constant | (variance == 0)
    return torch.where(flat, mean * 0, mean / torch.where(flat, 1, variance).sqrt())


def cc(saliency: FlattenedMaps, density: FlattenedMaps) -> Tensor:
    """Pearson's correlation with the density map, -1..1; 0 where either map is constant."""
    norm = (saliency.sum_of_squares * density.sum_of_squares).sqrt()
    flat = saliency.constant | density.constant | (norm == 0)
    product = dot(saliency.centred, density.centred)
    return torch.where(flat, 0, product / torch.where(flat, 1, norm))


def kl_mit(saliency: FlattenedMaps, density: FlattenedMaps) -> Tensor:
    """KL divergence of the map p from the density map q: sum q log(eps + q / (p + eps)).

    Both are divided by their sums.  A map with negative values is shifted to a minimum of 0; a map
    of zeros counts as uniform.
    """
    p, q = saliency.density().add_(EPS), density.density()
    return dot(q, (q / p).add_(EPS).log_())


def kl_tuebingen(saliency: FlattenedMaps, density: FlattenedMaps) -> Tensor:
    """KL divergence sum q log(q / p), with 1e-20 added to both maps before they are normalised."""
    p, q = saliency.positive + TINY, density.positive + TINY
    added = p.shape[1] * TINY
    p_sum, q_sum = saliency.total + added, density.total + added
    # Dividing by the sums at the end spares two passes over the maps.
    return dot(q, (q / p).log_()) / q_sum + (p_sum / q_sum).log()


def sim_mit(saliency: FlattenedMaps, density: FlattenedMaps) -> Tensor:
    """Mass that both maps share, 0..1; each is scaled to 0..1, then divided by its sum."""
    return torch.minimum(saliency.scaled_density(), density.scaled_density()).sum(1)


def sim_tuebingen(saliency: FlattenedMaps, density: FlattenedMaps) -> Tensor:
    """Mass that both maps share, 0..1; each is divided by its sum."""
    p = saliency.positive * (density.total / saliency.total)[:, None]
    return torch.minimum(p, density.positive).sum(1) / density.total


def auc(saliency: FlattenedMaps, fixations: FixatedPixels) -> Tensor:
    """Area under the ROC curve: all pixels are negatives, every fixation counts, ties count 1/2."""
    values = fixations.rows(fixations.of_maps(saliency.raw), 0)
    counts = fixations.rows(fixations.counts, 0)
    return area_with_ties(values, counts, sort_rows(saliency.raw), saliency.raw.shape[1])


def auc_judd(saliency: FlattenedMaps, fixations: FixatedPixels) -> Tensor:
    """AUC-Judd: the fixated pixels are positives, all other pixels are negatives.

    A pixel counts once.  The thresholds are the map's values at the positives; the curve is linear
    between them, as in the MATLAB code.  Equal values share one threshold; MATLAB separates them by
    noise of 1e-7.
    """
    values = fixations.rows(fixations.of_maps(saliency.raw), math.inf)
    return area_at_positives(values, fixations.num_pixels, sort_rows(saliency.raw))


def auc_borji(saliency: FlattenedMaps, fixations: FixatedPixels, seeds: Tensor) -> Tensor:
    """AUC-Borji: fixated pixels against the same number of random pixels.

    Averages over `NUM_SPLITS` random sets; thresholds are in steps of 0.1.
    """
    return area_in_steps(saliency.scaled, fixations, None, seeds, NUM_SPLITS)


def sauc_mit(
    saliency: FlattenedMaps, fixations: FixatedPixels, nonfixations: FixatedPixels, seeds: Tensor
) -> Tensor:
    """Shuffled AUC: negatives are drawn from the fixated pixels of other images.

    Draws `NUM_SPLITS` sets, each as large as the set of fixated pixels; thresholds are in steps of
    0.1.  The MATLAB code takes 10 other images (`other_images`).
    """
    return area_in_steps(saliency.scaled, fixations, nonfixations, seeds, NUM_SPLITS)


def sauc_tuebingen(
    saliency: FlattenedMaps, fixations: FixatedPixels, nonfixations: FixatedPixels
) -> Tensor:
    """Shuffled AUC: every fixation of all other images is a negative, ties count 1/2."""
    values = fixations.rows(fixations.of_maps(saliency.raw), 0)
    counts = fixations.rows(fixations.counts, 0)
    values_seen = nonfixations.of_maps(saliency.raw).repeat_interleave(nonfixations.counts.long())
    negatives = pad_rows(values_seen, nonfixations.num_fixations, math.inf)
    return area_with_ties(values, counts, sort_rows(negatives), nonfixations.num_fixations)


def ig_mit(
    saliency: FlattenedMaps, baseline_log_density: FlattenedMaps, fixations: FixatedPixels
) -> Tensor:
    """Mean gain in log2(eps + map) over the baseline at the fixated pixels.

    The map and the baseline's density are scaled to 0..1, then divided by their sums.
    """
    baseline = FlattenedMaps.of(baseline_log_density.raw.exp())
    p, b = (fixations.of_maps(maps.scaled_density()) for maps in (saliency, baseline))
    return fixations.total((p + EPS).log2() - (b + EPS).log2()) / fixations.num_pixels


def ig_tuebingen(
    log_density: FlattenedMaps, baseline_log_density: FlattenedMaps, fixations: FixatedPixels
) -> Tensor:
    """Mean gain in log-likelihood over the baseline, over all fixations, in bits.

    0 for the baseline itself; minus infinity if log_density is minus infinity at a fixation.
    Source: Kuemmerer et al. 2015.
    """
    model, baseline = (fixations.of_maps(m.raw) for m in (log_density, baseline_log_density))
    gain = (model.double() - baseline.double()) * fixations.counts
    return fixations.total(gain) / fixations.num_fixations / math.log(2)


@dataclass(frozen=True)
class Metric:
    """A row of the table: one formula, and the rule books that use it.

    name: used in code and columns.  label: used in tables and figures.  function: its parameters
    name the inputs of `score` that it needs; returns (B,) float64.  headline: the rule book whose
    value short tables show, if any.
    """

    name: str
    label: str
    rules: tuple[Rules, ...]
    function: Callable[..., Tensor]
    unit: str = ""
    lower_is_better: bool = False
    headline: Rules | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of the function's parameters."""
        return tuple(inspect.signature(self.function).parameters)

    @property
    def sign(self) -> int:
        """1 if higher is better, -1 if lower is better."""
        return -1 if self.lower_is_better else 1

    @property
    def arrow(self) -> str:
        """An arrow in the better direction."""
        return "↓" if self.lower_is_better else "↑"


DEVIATIONS, BITS = "standard deviations", "bits per fixation"
TABLE = (
    Metric("nss", "NSS", ("mit",), nss_mit, DEVIATIONS, headline="mit"),
    Metric("nss", "NSS", ("tuebingen",), nss_tuebingen, DEVIATIONS),
    Metric("cc", "CC", ("mit", "tuebingen"), cc, headline="mit"),
    Metric("kl", "KL", ("mit",), kl_mit, "nats", lower_is_better=True, headline="mit"),
    Metric("kl", "KL", ("tuebingen",), kl_tuebingen, "nats", lower_is_better=True),
    Metric("sim", "SIM", ("mit",), sim_mit, headline="mit"),
    Metric("sim", "SIM", ("tuebingen",), sim_tuebingen),
    Metric("auc", "AUC", ("tuebingen",), auc),
    Metric("auc_judd", "AUC-Judd", ("mit",), auc_judd, headline="mit"),
    Metric("auc_borji", "AUC-Borji", ("mit",), auc_borji),
    Metric("sauc", "sAUC", ("mit",), sauc_mit),
    Metric("sauc", "sAUC", ("tuebingen",), sauc_tuebingen),
    Metric("ig", "IG", ("mit",), ig_mit, BITS),
    Metric("ig", "IG", ("tuebingen",), ig_tuebingen, BITS, headline="tuebingen"),
)
METRICS = {f"{rules}_{row.name}": row for rules in RULES for row in TABLE if rules in row.rules}
"""The rows by full name, such as `mit_nss`, as in columns and reports."""
BY_NAME = {row.name: row for row in TABLE}
"""A row by short name, such as `nss`: both rule books agree in label, unit and direction."""
HEADLINES = tuple(f"{row.headline}_{row.name}" for row in TABLE if row.headline)
"""Full names of the metrics that short tables show."""


def find_metric(full_name: str) -> Metric:
    """Find a row by its full name.  Raises ValueError listing the known names."""
    if full_name not in METRICS:
        raise ValueError(f"unknown metric {full_name!r}; known: {', '.join(METRICS)}")
    return METRICS[full_name]


def label(name: str) -> str:
    """Return the label of a metric's short name; other names are returned unchanged."""
    return BY_NAME[name].label if name in BY_NAME else name


def metric_names(rules: Rules, inputs: Collection[str]) -> tuple[str, ...]:
    """Return the names of the metrics of a rule book that these inputs allow."""
    return tuple(row.name for row in TABLE if rules in row.rules and set(row.needs) <= set(inputs))


@torch.no_grad()
def score(
    saliency: Tensor | None = None,
    fixations: Tensor | None = None,
    density: Tensor | None = None,
    *,
    rules: Rules = "tuebingen",
    names: Collection[str] = (),
    log_density: Tensor | None = None,
    baseline_log_density: Tensor | None = None,
    nonfixations: Tensor | None = None,
    seeds: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the metrics of a rule book, (B,) float64 each, by name.

    All maps are (B, 1, H, W).  saliency: any scale; for a density model exp(log_density).
    fixations: counts.  density: the density map of the fixations.
    log_density, baseline_log_density: natural log; IG is the gain over the baseline.
    nonfixations: counts of other images' fixations: all images under `tuebingen`, `other_images`
    under `mit`.
    seeds: (B,) int64, such as positions in the split; random draws depend only on them.
    names: the metrics to compute; if empty, all that the inputs allow.
    Metrics that need fixations are NaN for images without any.
    Raises ValueError for inputs that are missing, differ in size, or are not finite; log_density
    may be minus infinity.
    """
    given = {
        "saliency": saliency,
        "density": density,
        "fixations": fixations,
        "nonfixations": nonfixations,
        "log_density": log_density,
        "baseline_log_density": baseline_log_density,
        "seeds": seeds,
    }
    tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
    rows = [find_metric(f"{rules}_{name}") for name in names or metric_names(rules, tensors)]
    needed = {name for row in rows for name in row.needs}
    if missing := sorted(needed - set(tensors)):
        raise ValueError(f"{' and '.join(row.name for row in rows)} needs {', '.join(missing)}")
    tensors = {name: tensor for name, tensor in tensors.items() if name in needed}
    _check_shapes({name: tensor for name, tensor in tensors.items() if name != "seeds"})
    first = next(iter(tensors.values()))
    step = max(1, len(first))
    if first.device.type == "cpu":
        step = max(1, PIXELS_AT_ONCE // max(1, first[:1].numel()))
    parts = []
    for start in range(0, max(1, len(first)), step):
        part = {name: tensor[start : start + step] for name, tensor in tensors.items()}
        inputs = {name: _prepare(name, tensor, start) for name, tensor in part.items()}
        parts.append(
            {row.name: row.function(*(inputs[name] for name in row.needs)) for row in rows}
        )
    return {row.name: torch.cat([part[row.name] for part in parts]).double() for row in rows}


def _prepare(name: str, tensor: Tensor, start: int) -> FlattenedMaps | FixatedPixels | Tensor:
    """Check an input of `score` and convert it; start: batch position of its first image."""
    if name == "seeds":
        return tensor
    if name in ("fixations", "nonfixations"):
        pixels = FixatedPixels.of(tensor)
        wrong = ~((pixels.counts > 0) & (pixels.counts < math.inf))
        if wrong.any():
            image, found = start + int(pixels.image[wrong][0]), pixels.counts[wrong][0].item()
            raise ValueError(f"{name} of image {image} must be counts, 0 or more, found {found}")
        return pixels
    maps = FlattenedMaps.of(tensor)
    lowest = maps.low.clamp_min(0) if name == "log_density" else maps.low
    wrong = ~(lowest.isfinite() & maps.high.isfinite())
    if wrong.any():
        row = int(wrong.flatten().int().argmax())
        low, high = maps.low[row].item(), maps.high[row].item()
        raise ValueError(
            f"{name} of image {start + row} must be finite, found values from {low} to {high}"
        )
    return maps


def _check_shapes(maps: dict[str, Tensor]) -> None:
    first = next(iter(maps))
    for name, given in maps.items():
        if given.ndim != 4 or given.shape[1] != 1:
            raise ValueError(f"{name} must be (B, 1, H, W), found {tuple(given.shape)}")
        if given.shape != maps[first].shape:
            raise ValueError(
                f"{name} is {tuple(given.shape)}, {first} {tuple(maps[first].shape)}: "
                "they must have the same size"
            )


def other_images(index: Tensor, num_images: int, num_others: int = 10) -> Tensor:
    """Choose the other images whose fixations are the negatives of the `mit` sAUC.

    index: (B,) int64 positions in the split of `num_images`.  Returns (B, num_others) distinct
    positions, never the image's own; they depend only on the index.
    """
    if num_others >= num_images:
        raise ValueError(
            f"each image needs {num_others} others; there are only {num_images} images"
        )
    candidates = torch.arange(num_images, device=index.device)
    keys = random_integers(index[:, None], candidates)
    keys = keys.scatter(1, index[:, None], torch.iinfo(torch.int64).max)
    return keys.topk(num_others, dim=1, largest=False).indices
