"""Scores of saliency maps and densities under two rule books; one value per image.

`mit` is what the MIT benchmark's MATLAB computes (Bylinskii et al.), `tuebingen` what pysaliency
computes, with which MIT/Tuebingen scores its board.  Averages are taken elsewhere.
Maps are (B, 1, H, W) on any device; sums are float64.  Fixations are counts per pixel; an image
without any gets NaN where fixations are needed, so that a caller can count it and leave it out.
A map that isn't finite raises ValueError with its position in the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from .auc import Gaze, Ranking, area_in_steps, draw
from .maps import TINY

Rules = Literal["mit", "tuebingen"]
"""The rule book: `mit`, the MIT benchmark's MATLAB; `tuebingen`, pysaliency."""

NUM_SPLITS = 100
"""Random sets of negatives that the `mit` AUC-Borji and sAUC average over."""

EPS = torch.finfo(torch.float64).eps
"""MATLAB's eps, about 2.2e-16, which the `mit` KL and IG add."""


@dataclass(frozen=True, eq=False)
class _Maps:
    """Flat maps (B, N): as they came, and in float64; their extremes (B, 1)."""

    raw: Tensor
    low: Tensor
    high: Tensor

    @cached_property
    def values(self) -> Tensor:
        return self.raw.double()

    @cached_property
    def positive(self) -> Tensor:
        """Without negative values: a map that has some is lifted by its lowest."""
        return self.values - self.low.clamp(max=0).double()

    @cached_property
    def constant(self) -> Tensor:
        """(B,) bool."""
        return (self.low == self.high)[:, 0]

    @cached_property
    def mean(self) -> Tensor:
        return self.values.mean(1, keepdim=True)

    @cached_property
    def centred(self) -> Tensor:
        return self.values - self.mean

    @cached_property
    def squares(self) -> Tensor:
        """(B,) sum of squared deviations."""
        return _dot(self.centred, self.centred)

    @cached_property
    def density(self) -> Tensor:
        """Divided by its sum; zeros become uniform."""
        return _divide_by_sum(self.positive)

    @cached_property
    def scaled(self) -> Tensor:
        """In 0..1; a constant map becomes zeros."""
        low, high = self.low.double(), self.high.double()
        return (self.values - low) / torch.where(high > low, high - low, 1)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(1)


def _divide_by_sum(values: Tensor) -> Tensor:
    total = values.sum(1, keepdim=True)
    uniform = 1 / values.shape[1]
    return torch.where(total > 0, values / torch.where(total > 0, total, 1), uniform)


def _flatten(name: str, maps: Tensor, size: torch.Size) -> Tensor:
    if maps.ndim != 4 or maps.shape[1] != 1:
        raise ValueError(f"{name} must be (B, 1, H, W), found {tuple(maps.shape)}")
    if maps.shape != size:
        raise ValueError(
            f"{name} is {tuple(maps.shape)}, the first map {tuple(size)}: resize one of them"
        )
    return maps.flatten(1)


def _read(
    maps: dict[str, Tensor], counts: dict[str, Tensor]
) -> tuple[dict[str, _Maps], dict[str, Gaze]]:
    """Checks maps and count maps by name, all of one shape, and waits for the device only once."""
    size = next(iter(maps.values())).shape
    names, lows, highs, read = [], [], [], {}
    for name, given in (maps | counts).items():
        flat = _flatten(name, given, size)
        flat = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
        read[name] = _Maps(flat, flat.amin(1, keepdim=True), flat.amax(1, keepdim=True))
        names.append(name)
        lows.append(read[name].low.double())
        highs.append(read[name].high.double())
    low, high = torch.cat(lows, 1), torch.cat(highs, 1)
    refused = ~(low.isfinite() & high.isfinite())
    refused[:, len(maps) :] |= low[:, len(maps) :] < 0
    sizes = [(read[name].raw > 0).sum(1, keepdim=True) for name in counts]
    answers = torch.cat([refused.long(), *sizes], dim=1).tolist()
    for position, row in enumerate(answers):
        for name, bad in zip(names, row, strict=False):
            if bad:
                wanted = "counts of at least 0" if name in counts else "finite numbers"
                raise ValueError(f"{name} of image {position} of {len(answers)} is not {wanted}")
    gaze = {}
    for column, name in enumerate(counts, len(names)):
        rows = [row[column] for row in answers]
        gaze[name] = Gaze.from_counts(read[name].raw, sum(rows), max(rows, default=0))
    return {name: read[name] for name in (maps | counts)}, gaze


def nss(saliency: Tensor, fixations: Tensor, rules: Rules = "tuebingen") -> Tensor:
    """Mean z-score of each saliency map at its fixated pixels.

    saliency: (B, 1, H, W), any scale.  fixations: (B, 1, H, W) counts.
    rules: `tuebingen` averages over fixations and divides by H * W in the deviation; `mit` averages
    over fixated pixels and divides by H * W - 1.
    Returns (B,) float64 in standard deviations; chance is 0, a constant map scores 0.
    Source: Peters et al. 2005.
    """
    read, gaze = _read({"saliency": saliency}, {"fixations": fixations})
    return _nss(read["saliency"], gaze["fixations"], rules)


def _nss(maps: _Maps, gaze: Gaze, rules: Rules) -> Tensor:
    seen = maps.values[gaze.image, gaze.pixel] - maps.mean[gaze.image, 0]
    if rules == "mit":
        mean = gaze.total(seen) / gaze.num_pixels
        variance = maps.squares / (maps.values.shape[1] - 1)
    else:
        mean = gaze.total(seen * gaze.counts) / gaze.num_fixations
        variance = maps.squares / maps.values.shape[1]
    flat = maps.constant | (variance == 0)
    return torch.where(flat, mean * 0, mean / torch.where(flat, 1, variance).sqrt())


def cc(saliency: Tensor, density: Tensor) -> Tensor:
    """Pearson's correlation of each saliency map with the density map; both rule books agree.

    saliency, density: (B, 1, H, W), any scale.
    Returns (B,) float64 in -1..1; 0 where either map is constant.
    """
    read, _ = _read({"saliency": saliency, "density": density}, {})
    return _cc(read["saliency"], read["density"])


def _cc(maps: _Maps, density: _Maps) -> Tensor:
    norm = (maps.squares * density.squares).sqrt()
    flat = maps.constant | density.constant | (norm == 0)
    value = _dot(maps.centred, density.centred) / torch.where(flat, 1, norm)
    return torch.where(flat, 0, value)


def kl(saliency: Tensor, density: Tensor, rules: Rules = "tuebingen") -> Tensor:
    """Kullback-Leibler divergence of each saliency map, as a density p, from the density map q.

    saliency, density: (B, 1, H, W); a map with negative values is lifted by its lowest.
    rules: `tuebingen` adds 1e-20 to both and divides by the sums, then sum q log(q / p);
    `mit` divides by the sums, then sum q log(eps + q / (p + eps)).
    Returns (B,) float64 in nats, 0 for equal maps.  A map of zeros counts as uniform.
    """
    read, _ = _read({"saliency": saliency, "density": density}, {})
    return _kl(read["saliency"], read["density"], rules)


def _kl(maps: _Maps, density: _Maps, rules: Rules) -> Tensor:
    if rules == "mit":
        p, q = maps.density, density.density
        return _dot(q, (q / (p + EPS)).add_(EPS).log_())
    p, q = maps.positive + TINY, density.positive + TINY
    p_sum, q_sum = p.sum(1), q.sum(1)
    # The sums are divided out at the end, so that the pictures are passed over once less each.
    return _dot(q, (q / p).log_()) / q_sum + (p_sum / q_sum).log()


def sim(saliency: Tensor, density: Tensor, rules: Rules = "tuebingen") -> Tensor:
    """Similarity: what each saliency map and the density map share, both divided by their sums.

    saliency, density: (B, 1, H, W).  rules: `mit` scales both to 0..1 before dividing; `tuebingen`
    only lifts a map that has negative values by its lowest.
    Returns (B,) float64 in 0..1.  A map of zeros (`mit`: a constant map) counts as uniform.
    """
    read, _ = _read({"saliency": saliency, "density": density}, {})
    return _sim(read["saliency"], read["density"], rules)


def _sim(maps: _Maps, density: _Maps, rules: Rules) -> Tensor:
    if rules == "mit":
        p, q = _divide_by_sum(maps.scaled), _divide_by_sum(density.scaled)
    else:
        p, q = maps.density, density.density
    return torch.minimum(p, q).sum(1)


def auc(saliency: Tensor, fixations: Tensor) -> Tensor:
    """`tuebingen` AUC: all pixels are negatives, every fixation counts, ties count 1/2.

    saliency: (B, 1, H, W), any scale.  fixations: (B, 1, H, W) counts.
    Returns (B,) float64 in 0..1; chance and a constant map are .5.
    """
    read, gaze = _read({"saliency": saliency}, {"fixations": fixations})
    return _auc(Ranking.of(read["saliency"].raw, gaze["fixations"]), read["saliency"])


def _auc(ranking: Ranking, maps: _Maps) -> Tensor:
    return ranking.area(ranking.counts, torch.ones_like(maps.values))


def auc_judd(saliency: Tensor, fixations: Tensor) -> Tensor:
    """`mit` AUC-Judd: each fixated pixel once against the unfixated ones, thresholds at fixations.

    saliency: (B, 1, H, W), any scale.  fixations: (B, 1, H, W) counts.
    Between two thresholds the curve is straight, as in the MATLAB; equal values are one threshold,
    where the MATLAB adds noise of 1e-7 to part them.
    Returns (B,) float64 in 0..1; a constant map scores .5.
    """
    read, gaze = _read({"saliency": saliency}, {"fixations": fixations})
    return _auc_judd(Ranking.of(read["saliency"].raw, gaze["fixations"]), read["fixations"])


def _auc_judd(ranking: Ranking, fixations: _Maps) -> Tensor:
    fixated, unfixated = (ranking.counts > 0).double(), (fixations.raw <= 0).double()
    return ranking.area(fixated, unfixated, only_fixated=True)


def auc_borji(
    saliency: Tensor, fixations: Tensor, seeds: Tensor, num_splits: int = NUM_SPLITS
) -> Tensor:
    """`mit` AUC-Borji: fixated pixels against as many random ones, thresholds in steps of 0.1.

    saliency: (B, 1, H, W), scaled to 0..1 here.  fixations: (B, 1, H, W) counts.
    seeds: (B,) int64, one per image, such as its position in the split: the draws depend on
    nothing else, neither batch nor device.  num_splits: random sets to average over.
    Returns (B,) float64 in 0..1; a constant map scores .5.
    """
    read, gaze = _read({"saliency": saliency}, {"fixations": fixations})
    return area_in_steps(read["saliency"].scaled, gaze["fixations"], None, seeds, num_splits)


def sauc(
    saliency: Tensor,
    fixations: Tensor,
    nonfixations: Tensor,
    rules: Rules = "tuebingen",
    seeds: Tensor | None = None,
    num_splits: int = NUM_SPLITS,
) -> Tensor:
    """Shuffled AUC: negatives are where other images were fixated, so a centre prior earns little.

    saliency: (B, 1, H, W), any scale.  fixations, nonfixations: (B, 1, H, W) counts.
    rules: `tuebingen` takes each of the nonfixations, the fixations of all other images (the count
    map of the split less the image's own), ties 1/2; `mit` takes the pixels that 10 other images
    (`other_images`) were fixated on, draws `num_splits` sets as large as the fixated pixels, and
    has thresholds in steps of 0.1; seeds: (B,) int64, as for `auc_borji`.
    Returns (B,) float64 in 0..1; a constant map scores .5; NaN without nonfixations.
    """
    read, gaze = _read(
        {"saliency": saliency}, {"fixations": fixations, "nonfixations": nonfixations}
    )
    if rules == "tuebingen":
        ranking = Ranking.of(read["saliency"].raw, gaze["fixations"])
        return _sauc(ranking, read["nonfixations"])
    if seeds is None:
        raise ValueError("sauc under the mit rules draws at random: pass seeds, one per image")
    return area_in_steps(
        read["saliency"].scaled, gaze["fixations"], gaze["nonfixations"], seeds, num_splits
    )


def _sauc(ranking: Ranking, nonfixations: _Maps) -> Tensor:
    return ranking.area(ranking.counts, nonfixations.values)


def ig(
    prediction: Tensor, fixations: Tensor, baseline: Tensor, rules: Rules = "tuebingen"
) -> Tensor:
    """Information gain over a baseline, such as the centre bias of the training images.

    prediction, baseline: (B, 1, H, W); log-densities (natural log) under `tuebingen`, saliency maps
    under `mit`.  fixations: (B, 1, H, W) counts.
    rules: `tuebingen` is the mean difference of log-likelihoods over fixations; `mit` scales both
    maps to 0..1, divides by their sums, and takes log2(eps + map) over fixated pixels.
    Returns (B,) float64 in bits per fixation; 0 for the baseline itself.
    Source: Kuemmerer et al. 2015.
    """
    read, gaze = _read({"prediction": prediction, "baseline": baseline}, {"fixations": fixations})
    return _ig(read["prediction"], gaze["fixations"], read["baseline"], rules)


def _ig(maps: _Maps, gaze: Gaze, baseline: _Maps, rules: Rules) -> Tensor:
    at = (gaze.image, gaze.pixel)
    if rules == "mit":
        p, b = _divide_by_sum(maps.scaled)[at], _divide_by_sum(baseline.scaled)[at]
        return gaze.total((p + EPS).log2() - (b + EPS).log2()) / gaze.num_pixels
    gain = (maps.raw[at].double() - baseline.raw[at].double()) * gaze.counts
    return gaze.total(gain) / gaze.num_fixations / math.log(2)


def other_images(index: Tensor, num_images: int, num_others: int = 10) -> Tensor:
    """The other images whose fixations are the `mit` sAUC's negatives.

    index: (B,) int64 positions in the split of `num_images`.  Returns (B, num_others) positions,
    none twice and never the image's own, drawn from the index alone.
    """
    if num_others >= num_images:
        raise ValueError(f"{num_images} images have no {num_others} others each")
    candidates = torch.arange(num_images, device=index.device)
    keys = draw(index[:, None], candidates)
    keys = keys.scatter(1, index[:, None], torch.iinfo(torch.int64).max)
    return keys.topk(num_others, dim=1, largest=False).indices


def score(
    saliency: Tensor,
    fixations: Tensor,
    density: Tensor,
    *,
    rules: Rules = "tuebingen",
    log_density: Tensor | None = None,
    baseline_log_density: Tensor | None = None,
    nonfixations: Tensor | None = None,
    seeds: Tensor | None = None,
) -> dict[str, Tensor]:
    """All metrics of a rule book at once, by name; maps are read and ranked once.

    saliency: (B, 1, H, W); a density model's exp(log_density).  fixations, nonfixations:
    (B, 1, H, W) counts.  density: (B, 1, H, W) density map.  log_density, baseline_log_density:
    (B, 1, H, W), natural log.  seeds: (B,) int64, one per image.
    Returns (B,) float64 each: under `tuebingen` nss, cc, kl, sim, auc; sauc if nonfixations are
    given; ig if both log-densities are.  Under `mit` nss, cc, kl, sim, auc_judd; auc_borji if seeds
    are given; sauc if nonfixations are too; ig, of the saliency map, if the baseline is.
    """
    maps = {"saliency": saliency, "density": density}
    if baseline_log_density is not None:
        maps["baseline_log_density"] = baseline_log_density
        if log_density is not None and rules == "tuebingen":
            maps["log_density"] = log_density
    counts = {"fixations": fixations}
    if nonfixations is not None:
        counts["nonfixations"] = nonfixations
    read, gaze = _read(maps, counts)
    p, q, seen = read["saliency"], read["density"], gaze["fixations"]
    ranking = Ranking.of(p.raw, seen)
    scores = {
        "nss": _nss(p, seen, rules),
        "cc": _cc(p, q),
        "kl": _kl(p, q, rules),
        "sim": _sim(p, q, rules),
    }
    baseline = read.get("baseline_log_density")
    if rules == "tuebingen":
        scores["auc"] = _auc(ranking, p)
        if nonfixations is not None:
            scores["sauc"] = _sauc(ranking, read["nonfixations"])
        if baseline is not None and log_density is not None:
            scores["ig"] = _ig(read["log_density"], seen, baseline, rules)
        return scores
    scores["auc_judd"] = _auc_judd(ranking, read["fixations"])
    if seeds is not None:
        scores["auc_borji"] = area_in_steps(p.scaled, seen, None, seeds, NUM_SPLITS)
        if nonfixations is not None:
            scores["sauc"] = area_in_steps(p.scaled, seen, gaze["nonfixations"], seeds, NUM_SPLITS)
    if baseline is not None:
        raw = baseline.values.exp()
        bounds = (baseline.low.double().exp(), baseline.high.double().exp())
        scores["ig"] = _ig(p, seen, _Maps(raw, *bounds), rules)
    return scores
