"""The formulas of the metrics, and how a batch is taken through them; `metrics` is the way in."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from emlnet.data.maps import TINY
from emlnet.metrics.flat_maps import FlatMaps, Gaze, check_shapes, dot, log, read
from emlnet.metrics.roc import Ranking, area_in_steps

Rules = Literal["mit", "tuebingen"]
"""The rule book: `mit`, the MIT benchmark's MATLAB; `tuebingen`, pysaliency."""

NUM_SPLITS = 100
"""Random sets of negatives that the `mit` AUC-Borji and sAUC average over."""

EPS = torch.finfo(torch.float64).eps
"""MATLAB's eps, about 2.2e-16, which the `mit` KL and IG add."""


PIXELS_AT_ONCE = 1 << 19
"""On a processor `score` takes so many pixels at a time, at least one image: they fit its cache."""


@torch.no_grad()
def run(
    names: Set[str],
    rules: Rules,
    maps: dict[str, Tensor],
    counts: dict[str, Tensor],
    seeds: Tensor | None = None,
    num_splits: int = NUM_SPLITS,
) -> dict[str, Tensor]:
    """The metrics `names` of all images; on a processor a few images at a time."""
    check_shapes(maps | counts)
    shape, device = next(iter(maps.values())).shape, next(iter(maps.values())).device
    num_images, num_pixels = shape[0], math.prod(shape[1:])
    step = max(1, num_images)
    if device.type == "cpu":
        step = min(step, max(1, PIXELS_AT_ONCE // max(1, num_pixels)))
    # Fresh memory costs more than the sums, so float64 pictures are overwritten.
    work = torch.empty(5, min(step, num_images), num_pixels, dtype=torch.float64, device=device)
    fixated = ["fixations"] if counts else []
    if rules == "mit" and "sauc" in names:
        fixated.append("nonfixations")
    parts = []
    for start in range(0, max(1, num_images), step):
        rows = slice(start, start + step)
        flat, gaze = read(
            {name: given[rows] for name, given in maps.items()},
            {name: given[rows] for name, given in counts.items()},
            fixated,
            start,
        )
        part_seeds = None if seeds is None else seeds[rows]
        part_work = work[:, : len(next(iter(flat.values())).raw)]
        parts.append(_score(names, rules, flat, gaze, part_seeds, num_splits, part_work))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _score(
    names: Set[str],
    rules: Rules,
    flat: dict[str, FlatMaps],
    gaze: dict[str, Gaze],
    seeds: Tensor | None,
    num_splits: int,
    work: Tensor,
) -> dict[str, Tensor]:
    """The metrics `names`, in their usual order.  work: (5, B, N) float64, overwritten."""
    if "saliency" in flat:
        p = replace(flat["saliency"], store=work[2], centre_store=work[0])
    if "density" in flat:
        q = replace(flat["density"], store=work[3], centre_store=work[1])
    if names & {"auc", "auc_judd"} or (rules == "tuebingen" and "sauc" in names):
        ranking = Ranking.of(p, gaze["fixations"], (work[0], work[1], work[4]))
    scores = {}
    if "nss" in names:
        scores["nss"] = _nss(p, gaze["fixations"], rules)
    if "cc" in names:
        scores["cc"] = _cc(p, q)
    if "kl" in names:
        scores["kl"] = _kl(p, q, rules, work)
    if "sim" in names:
        scores["sim"] = _sim(p, q, rules, work)
    if "auc" in names:
        scores["auc"] = ranking.area(ranking.counts)
    if "auc_judd" in names:
        scores["auc_judd"] = ranking.area((ranking.counts > 0).double(), judd=True)
    if "auc_borji" in names and seeds is not None:
        seen = gaze["fixations"]
        scores["auc_borji"] = area_in_steps(p.scaled(work[0]), seen, None, seeds, num_splits)
    if "sauc" in names and rules == "tuebingen":
        negatives = replace(flat["nonfixations"], store=work[0]).values
        scores["sauc"] = ranking.area(ranking.counts, negatives)
    elif "sauc" in names and seeds is not None:
        seen, others = gaze["fixations"], gaze["nonfixations"]
        scores["sauc"] = area_in_steps(p.scaled(work[0]), seen, others, seeds, num_splits)
    if "ig" in names and rules == "mit":
        scores["ig"] = _ig_of_maps(p, flat["baseline"], gaze["fixations"], work)
    elif "ig" in names:
        model, baseline = flat["log_density"], flat["baseline_log_density"]
        scores["ig"] = _ig_of_log_densities(model, baseline, gaze["fixations"])
    return scores


def _nss(maps: FlatMaps, gaze: Gaze, rules: Rules) -> Tensor:
    seen = maps.centred[gaze.image, gaze.pixel]
    if rules == "mit":
        mean = gaze.total(seen) / gaze.num_pixels
        variance = maps.sum_of_squares / (maps.raw.shape[1] - 1)
    else:
        mean = gaze.total(seen * gaze.counts) / gaze.num_fixations
        variance = maps.sum_of_squares / maps.raw.shape[1]
    flat = maps.constant | (variance == 0)
    return torch.where(flat, mean * 0, mean / torch.where(flat, 1, variance).sqrt())


def _cc(maps: FlatMaps, density: FlatMaps) -> Tensor:
    norm = (maps.sum_of_squares * density.sum_of_squares).sqrt()
    flat = maps.constant | density.constant | (norm == 0)
    return torch.where(flat, 0, dot(maps.centred, density.centred) / torch.where(flat, 1, norm))


def _kl(maps: FlatMaps, density: FlatMaps, rules: Rules, work: Tensor) -> Tensor:
    if rules == "mit":
        p, q = maps.density(work[0]).add_(EPS), density.density(work[1])
        return dot(q, log(torch.div(q, p, out=p).add_(EPS)))
    p = torch.add(maps.positive, TINY, out=work[0])
    q = torch.add(density.positive, TINY, out=work[1])
    added = p.shape[1] * TINY
    p_sum, q_sum = maps.total + added, density.total + added
    # Dividing by the sums at the end spares two passes over the maps.
    return dot(q, log(torch.div(q, p, out=p))) / q_sum + (p_sum / q_sum).log()


def _sim(maps: FlatMaps, density: FlatMaps, rules: Rules, work: Tensor) -> Tensor:
    if rules == "mit":
        p, q = maps.scaled_density(work[0]), density.scaled_density(work[1])
        return torch.minimum(p, q, out=p).sum(1)
    p, q = maps.positive, density.positive
    p = torch.mul(p, (density.total / maps.total)[:, None], out=work[0])
    return torch.minimum(p, q, out=p).sum(1) / density.total


def _ig_of_maps(maps: FlatMaps, baseline: FlatMaps, gaze: Gaze, work: Tensor) -> Tensor:
    at = (gaze.image, gaze.pixel)
    p, b = maps.scaled_density(work[0])[at], baseline.scaled_density(work[1])[at]
    return gaze.total((p + EPS).log2() - (b + EPS).log2()) / gaze.num_pixels


def _ig_of_log_densities(model: FlatMaps, baseline: FlatMaps, gaze: Gaze) -> Tensor:
    at = (gaze.image, gaze.pixel)
    gain = (model.raw[at].double() - baseline.raw[at].double()) * gaze.counts
    return gaze.total(gain) / gaze.num_fixations / math.log(2)
