"""Scores of saliency maps and densities under two rule books; one value per image.

`mit` is what the MIT benchmark's MATLAB computes (Bylinskii et al.), `tuebingen` what pysaliency
computes, with which MIT/Tuebingen scores its board.  Averages are taken elsewhere.
Maps are (B, 1, H, W) on any device; sums are float64.  Fixations are counts per pixel; an image
without any gets NaN where fixations are needed, so that a caller can count it and leave it out.
A map that isn't finite raises ValueError with its position in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emlnet.metrics.formulas import NUM_SPLITS, Rules, run
from emlnet.metrics.roc import draw

__all__ = [
    "LABELS",
    "NUM_SPLITS",
    "Rules",
    "auc",
    "auc_borji",
    "auc_judd",
    "cc",
    "ig",
    "kl",
    "nss",
    "other_images",
    "sauc",
    "score",
    "sim",
]

LABELS = {
    "nss": "NSS",
    "cc": "CC",
    "kl": "KL",
    "sim": "SIM",
    "auc": "AUC",
    "auc_judd": "AUC-Judd",
    "auc_borji": "AUC-Borji",
    "sauc": "sAUC",
    "ig": "IG",
}
"""How each is called in tables and figures."""


def nss(saliency: Tensor, fixations: Tensor, rules: Rules = "tuebingen") -> Tensor:
    """Mean z-score of each saliency map at its fixated pixels.

    saliency: (B, 1, H, W), any scale.  fixations: (B, 1, H, W) counts.
    rules: `tuebingen` averages over fixations and divides by H * W in the deviation; `mit` averages
    over fixated pixels and divides by H * W - 1.
    Returns (B,) float64 in standard deviations; chance is 0, a constant map scores 0.
    Source: Peters et al. 2005.
    """
    maps, counts = {"saliency": saliency}, {"fixations": fixations}
    return run({"nss"}, rules, maps, counts)["nss"]


def cc(saliency: Tensor, density: Tensor) -> Tensor:
    """Pearson's correlation of each saliency map with the density map; both rule books agree.

    saliency, density: (B, 1, H, W), any scale.
    Returns (B,) float64 in -1..1; 0 where either map is constant.
    """
    return run({"cc"}, "tuebingen", {"saliency": saliency, "density": density}, {})["cc"]


def kl(saliency: Tensor, density: Tensor, rules: Rules = "tuebingen") -> Tensor:
    """Kullback-Leibler divergence of each saliency map, as a density p, from the density map q.

    saliency, density: (B, 1, H, W); a map with negative values is lifted by its lowest.
    rules: `tuebingen` adds 1e-20 to both and divides by the sums, then sum q log(q / p);
    `mit` divides by the sums, then sum q log(eps + q / (p + eps)).
    Returns (B,) float64 in nats, 0 for equal maps.  A map of zeros counts as uniform.
    """
    return run({"kl"}, rules, {"saliency": saliency, "density": density}, {})["kl"]


def sim(saliency: Tensor, density: Tensor, rules: Rules = "tuebingen") -> Tensor:
    """Similarity: what each saliency map and the density map share, both divided by their sums.

    saliency, density: (B, 1, H, W).  rules: `mit` scales both to 0..1 before dividing; `tuebingen`
    only lifts a map that has negative values by its lowest.
    Returns (B,) float64 in 0..1.  A map of zeros (`mit`: a constant map) counts as uniform.
    """
    return run({"sim"}, rules, {"saliency": saliency, "density": density}, {})["sim"]


def auc(saliency: Tensor, fixations: Tensor) -> Tensor:
    """`tuebingen` AUC: all pixels are negatives, every fixation counts, ties count 1/2.

    saliency: (B, 1, H, W), any scale.  fixations: (B, 1, H, W) counts.
    Returns (B,) float64 in 0..1; chance and a constant map are .5.
    """
    maps, counts = {"saliency": saliency}, {"fixations": fixations}
    return run({"auc"}, "tuebingen", maps, counts)["auc"]


def auc_judd(saliency: Tensor, fixations: Tensor) -> Tensor:
    """`mit` AUC-Judd: each fixated pixel once against the unfixated ones, thresholds at fixations.

    saliency: (B, 1, H, W), any scale.  fixations: (B, 1, H, W) counts.
    Between two thresholds the curve is straight, as in the MATLAB; equal values are one threshold,
    where the MATLAB adds noise of 1e-7 to part them.
    Returns (B,) float64 in 0..1; a constant map scores .5.
    """
    maps, counts = {"saliency": saliency}, {"fixations": fixations}
    return run({"auc_judd"}, "mit", maps, counts)["auc_judd"]


def auc_borji(
    saliency: Tensor, fixations: Tensor, seeds: Tensor, num_splits: int = NUM_SPLITS
) -> Tensor:
    """`mit` AUC-Borji: fixated pixels against as many random ones, thresholds in steps of 0.1.

    saliency: (B, 1, H, W), scaled to 0..1 here.  fixations: (B, 1, H, W) counts.
    seeds: (B,) int64, one per image, such as its position in the split: the draws depend on
    nothing else, neither batch nor device.  num_splits: random sets to average over.
    Returns (B,) float64 in 0..1; a constant map scores .5.
    """
    maps, counts = {"saliency": saliency}, {"fixations": fixations}
    return run({"auc_borji"}, "mit", maps, counts, seeds, num_splits)["auc_borji"]


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
    if rules == "mit" and seeds is None:
        raise ValueError("sauc under the mit rules draws at random: pass seeds, one per image")
    counts = {"fixations": fixations, "nonfixations": nonfixations}
    return run({"sauc"}, rules, {"saliency": saliency}, counts, seeds, num_splits)["sauc"]


def ig(
    prediction: Tensor, fixations: Tensor, baseline: Tensor, rules: Rules = "tuebingen"
) -> Tensor:
    """Information gain over a baseline, such as the centre bias of the training images.

    prediction, baseline: (B, 1, H, W); log-densities (natural log) under `tuebingen`, saliency maps
    under `mit`.  fixations: (B, 1, H, W) counts.
    rules: `tuebingen` is the mean difference of log-likelihoods over fixations; `mit` scales both
    maps to 0..1, divides by their sums, and takes log2(eps + map) over fixated pixels.
    Returns (B,) float64 in bits per fixation; 0 for the baseline itself, minus infinity where a
    log-density is so at a fixation.
    Source: Kuemmerer et al. 2015.
    """
    if rules == "mit":
        maps = {"saliency": prediction, "baseline": baseline}
    else:
        maps = {"log_density": prediction, "baseline_log_density": baseline}
    return run({"ig"}, rules, maps, {"fixations": fixations})["ig"]


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
    counts = {"fixations": fixations}
    names = {"nss", "cc", "kl", "sim", "auc" if rules == "tuebingen" else "auc_judd"}
    if seeds is not None and rules == "mit":
        names.add("auc_borji")
    if nonfixations is not None and (rules == "tuebingen" or seeds is not None):
        counts["nonfixations"] = nonfixations
        names.add("sauc")
    if baseline_log_density is not None and rules == "mit":
        maps["baseline"] = baseline_log_density.double().exp()
        names.add("ig")
    elif baseline_log_density is not None and log_density is not None:
        maps |= {"log_density": log_density, "baseline_log_density": baseline_log_density}
        names.add("ig")
    return run(names, rules, maps, counts, seeds)
