"""Score models and baselines on a split; any number of workers gives the same scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emlnet.data.targets import Targets
from emlnet.metrics import baselines, saliency_metrics
from emlnet.metrics import best_maps as density_maps
from emlnet.metrics.calibration import LEVELS, coverage
from pipelines.evaluation import sources as rows
from pipelines.evaluation.score_table import ScoreTable, make_frame
from pipelines.evaluation.sources import BaselineSource, MapSource, ScoredMap, SplitImage
from pipelines.evaluation.split_fixations import SplitFixations, estimate_sigma, read_fixations
from pipelines.ray_cluster import tasks
from shards.read.reader import ShardReader

PART = 10
"""Images per Ray task."""
COVERAGES = tuple(f"coverage_{level:.0%}".rstrip("%") for level in LEVELS)
MAPS_ALONE = set(rows.BASELINES) - {rows.CENTRE}
"""Baselines that are not models: they get neither calibration nor the best map per metric."""
NUM_OTHERS = 10
"""Images whose fixations are the `mit` sAUC's negatives; all others where a split has fewer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoringContext:
    """What the scores of every image need.

    prior: (H, W) mean training density, the baseline of IG; None for uniform.  best_maps: whether
    each `tuebingen` metric gets the map that is best for it.  sigma: of the data's density maps, in
    pixels.  num_fixations: per image, on average.
    """

    gaze: SplitFixations
    prior: NDArray[np.float32] | None
    best_maps: bool
    sigma: float
    num_fixations: int

    def baseline(self, size: tuple[int, int]) -> Tensor:
        """Return the baseline of IG, a log-density (1, 1, H, W)."""
        if self.prior is None:
            return baselines.uniform(size)
        return baselines.centre_prior(self.prior, size)


def evaluate(
    sources: Sequence[MapSource],
    reader: ShardReader,
    *,
    title: str = "scores",
    with_baselines: bool = True,
    best_maps: bool = False,
    sigma: float | None = None,
    use_gpu: bool | None = None,
    num_workers: int = 0,
    about: dict[str, Any] | None = None,
) -> ScoreTable:
    """Score the maps of the sources, and the baselines, on every image of a split.

    best_maps: give each `tuebingen` metric of a density the map that is best for it.  sigma:
    pixels, of the blur in the data's density maps; estimated when not given.  num_workers: tasks at
    once, 0 for as many as the cluster runs.  about: more to keep with the table.
    Raises ValueError for a map that cannot be scored.
    """
    gaze = read_fixations(reader, num_workers)
    prior = reader.manifest.centre_prior(reader.folder) if has_prior(reader) else None
    sigma = sigma or estimate_sigma(reader, gaze)
    setting = ScoringContext(
        gaze=gaze,
        prior=prior,
        best_maps=best_maps,
        sigma=sigma,
        num_fixations=max(1, round(len(gaze.points) / len(gaze))),
    )
    if with_baselines:
        kept = None if prior is None else torch.from_numpy(prior)
        sources = [*sources, BaselineSource(prior=kept, reader=reader, sigma=sigma)]
    answers = tasks.spread(
        score_part,
        tasks.split(len(reader), PART),
        list(sources),
        reader,
        setting,
        title=f"{title}, {reader.split}",
        use_gpu=use_gpu,
        num_workers=num_workers,
    )
    frame = make_frame([record for answer in answers for record in answer], COVERAGES)
    table = ScoreTable(
        frame=frame,
        about={
            "data": reader.manifest.name,
            "data_digest": reader.manifest.digest,
            "split": reader.split,
            "num_images": len(reader),
            "ig_baseline": f"{rows.CENTRE} of train" if prior is not None else rows.UNIFORM,
            "best_maps": best_maps,
            "sigma": round(sigma, 2),
            **(about or {}),
        },
    )
    table.about["notes"] = [*table.about.get("notes", []), *_notes(table, reader)]
    return table


def has_prior(reader: ShardReader) -> bool:
    """Whether the data set has a centre prior, that is a train split."""
    return reader.manifest.centre_prior_sha256 is not None


@torch.inference_mode()
def score_part(
    part: list[int],
    device: torch.device,
    sources: Sequence[MapSource],
    reader: ShardReader,
    setting: ScoringContext,
) -> list[dict[str, Any]]:
    """Return a record for each map and image of a part."""
    sources = [source.to(device) for source in sources]
    records = []
    for position in part:
        shown = rows.show(position, reader.decoded(position), device)
        answers = [row for source in sources for row in source.rows(shown)]
        for row, values in zip(answers, _score(answers, shown, setting), strict=True):
            about = {
                "model": row.name,
                "image": shown.sample.key,
                "num_fixations": int((row.targets or shown.targets).counts.sum()),
                "constant": bool(row.saliency.amin() == row.saliency.amax()),
            }
            records.append({**about, **values})
    return records


def _score(
    answers: list[ScoredMap], shown: SplitImage, setting: ScoringContext
) -> list[dict[str, float]]:
    """Score all maps of one image under both rule books, maps with equal targets together."""
    scored: list[dict[str, float]] = [{} for _ in answers]
    own = [place for place, row in enumerate(answers) if row.targets is None]
    groups = [own, *([place] for place, row in enumerate(answers) if row.targets is not None)]
    for group in groups:
        targets = answers[group[0]].targets or shown.targets
        together = _score_rows([answers[place] for place in group], targets, shown, setting)
        for place, values in zip(group, together, strict=True):
            scored[place] = values
    return scored


def _score_rows(
    answers: list[ScoredMap], targets: Targets, shown: SplitImage, setting: ScoringContext
) -> list[dict[str, float]]:
    device, num = targets.density.device, len(answers)

    def repeat(maps: Tensor) -> Tensor:
        return maps.expand(num, -1, -1, -1)

    position, alone = shown.position, len(setting.gaze) == 1
    for row in answers:
        if not row.saliency.isfinite().all():
            raise ValueError(
                f"{shown.sample.key}: the map of {row.name} has values that are not finite"
            )
    baseline = setting.baseline(targets.size).to(device)
    nonfixations: list[Tensor | None] = [None, None]
    if not alone:
        num_others = min(NUM_OTHERS, len(setting.gaze) - 1)
        some = saliency_metrics.other_images(
            torch.tensor([position]), len(setting.gaze), num_others
        )[0]
        counts = [
            setting.gaze.counts(some.tolist(), targets.size),
            setting.gaze.of_others(position),
        ]
        nonfixations = [repeat(torch.from_numpy(c)[None, None].to(device)) for c in counts]
    maps = (
        torch.cat([row.saliency for row in answers]),
        repeat(targets.fixation_map()),
        repeat(targets.density),
    )
    log_densities = [baseline if r.log_density is None else r.log_density for r in answers]
    seeds = torch.full((num,), position, device=device)
    mit = saliency_metrics.score(
        *maps,
        rules="mit",
        seeds=seeds,
        nonfixations=nonfixations[0],
        baseline_log_density=repeat(baseline),
    )
    tuebingen = saliency_metrics.score(
        *maps,
        log_density=torch.cat(log_densities),
        nonfixations=nonfixations[1],
        baseline_log_density=repeat(baseline),
    )
    columns = {f"mit_{name}": values.tolist() for name, values in mit.items()}
    columns |= {f"tuebingen_{name}": values.tolist() for name, values in tuebingen.items()}
    seen = targets.fixation_map()[0, 0].cpu().numpy()
    scored = []
    for place, row in enumerate(answers):
        values = {name: column[place] for name, column in columns.items()}
        if row.log_density is None:
            values["tuebingen_ig"] = float("nan")
        elif row.name not in MAPS_ALONE:
            shares = coverage(row.log_density[0, 0].cpu().numpy(), seen)
            values |= dict(zip(COVERAGES, shares.tolist(), strict=True))
            if setting.best_maps and nonfixations[1] is not None:
                others = nonfixations[1][:1]
                values |= _best_maps(row.log_density, targets, others, seeds[:1], setting)
        scored.append(values)
    return scored


def _best_maps(
    log_density: Tensor,
    targets: Targets,
    nonfixations: Tensor,
    seeds: Tensor,
    setting: ScoringContext,
) -> dict[str, float]:
    """Return the `tuebingen` scores of a density, each metric with the map that is best for it."""
    scores = density_maps.score_density_maps(
        log_density,
        targets.fixation_map(),
        targets.density,
        baseline_log_density=setting.baseline(targets.size).to(log_density.device),
        nonfixations=nonfixations,
        sigma=setting.sigma,
        num_fixations=setting.num_fixations,
        seeds=seeds,
    )
    return {f"tuebingen_{name}": float(value) for name, value in scores.items()}


def _notes(table: ScoreTable, reader: ShardReader) -> list[str]:
    """Return what a reader of the scores should know about the data."""
    notes = []
    frame = table.of(table.models[0])
    empty = frame.index[frame["num_fixations"] == 0]
    if len(empty):
        notes.append(
            f"{len(empty)} of {len(frame)} images have no fixations (first: {empty[0]}): left out "
            "of NSS, AUC, sAUC and IG"
        )
    dropped = reader.manifest.dropped
    if dropped.points_outside:
        notes.append(
            f"{dropped.points_outside} fixations outside their images were left out when the data "
            "set was packed"
        )
    if dropped.samples:
        notes.append(
            f"{len(dropped.samples)} samples were left out when the data set was packed (first: "
            f"{dropped.samples[0].file}: {dropped.samples[0].reason})"
        )
    flat = table.frame[table.frame["constant"]]
    for model, images in flat.groupby("model", sort=False)["image"]:
        if model != rows.UNIFORM:
            notes.append(
                f"{len(images)} maps of {model} are constant (first: {images.iloc[0]}): NSS 0, "
                "CC 0, AUC .5, else a uniform density"
            )
    return notes


def with_about(table: ScoreTable, **more: Any) -> ScoreTable:
    """Return the table with more facts about it."""
    return replace(table, about={**table.about, **more})
