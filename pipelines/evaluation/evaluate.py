"""Score models and baselines on a split; any number of workers gives the same scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emlnet.metrics import metric_specific_maps, saliency_metrics
from emlnet.metrics.calibration import LEVELS, coverage
from pipelines.evaluation.score_table import ScoreTable, make_frame
from pipelines.evaluation.sources import (
    BASELINES,
    CENTRE,
    UNIFORM,
    BaselineSource,
    MapSource,
    ScoredMap,
    SplitImage,
    ig_baseline,
    prepare_split_image,
)
from pipelines.evaluation.split_fixations import SplitFixations, estimate_sigma, read_fixations
from pipelines.ray_cluster import tasks
from shards.read.reader import ShardReader

IMAGES_PER_TASK = 10
"""Images per Ray task."""
COVERAGES = tuple(f"coverage_{level:.0%}".rstrip("%") for level in LEVELS)
NOT_MODELS = set(BASELINES) - {CENTRE}
"""Baselines that get neither calibration nor the best map per metric."""
NUM_OTHERS = 10
"""Number of other images whose fixations are the negatives of `mit` sAUC, or all if fewer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoringContext:
    """Inputs that the scores of all images share.

    prior: (H, W) mean training density, the baseline of IG; None: uniform.  best_maps: score each
    `tuebingen` metric on the map that is best for it.  sigma: blur of the data's density maps in
    pixels.  num_fixations: mean per image.
    """

    gaze: SplitFixations
    prior: NDArray[np.float32] | None
    best_maps: bool
    sigma: float
    num_fixations: int

    def nonfixations(self, position: int, size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the negatives of each rule book's sAUC, (1, 1, H, W) counts; {} without others."""
        num_others = min(NUM_OTHERS, len(self.gaze) - 1)
        if not num_others:
            return {}
        index = torch.tensor([position])
        some = saliency_metrics.other_images(index, len(self.gaze), num_others)[0].tolist()
        counts = {
            "mit": self.gaze.counts(some, size),
            "tuebingen": self.gaze.of_others(position),
        }
        return {rules: torch.from_numpy(found)[None, None] for rules, found in counts.items()}


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

    best_maps: score each `tuebingen` metric of a density on the map that is best for it.
    sigma: blur of the data's density maps in pixels; default: estimated.
    num_workers: parallel tasks; 0: as many as fit the cluster.  about: facts to add to the table.
    Raises ValueError for a map that cannot be scored.
    """
    gaze = read_fixations(reader, num_workers)
    prior = find_prior(reader)
    sigma = sigma or estimate_sigma(reader, gaze)
    context = ScoringContext(
        gaze=gaze,
        prior=prior,
        best_maps=best_maps,
        sigma=sigma,
        num_fixations=max(1, round(sum(map(len, gaze.points)) / len(gaze))),
    )
    if with_baselines:
        sources = [*sources, BaselineSource(prior=prior, reader=reader, sigma=sigma)]
    answers = tasks.map_parts(
        score_part,
        tasks.split(len(reader), IMAGES_PER_TASK),
        list(sources),
        reader,
        context,
        title=f"{title}, {reader.split}",
        use_gpu=use_gpu,
        num_workers=num_workers,
    )
    table = ScoreTable(
        frame=make_frame([record for answer in answers for record in answer], COVERAGES),
        about={
            "data": reader.manifest.name,
            "data_digest": reader.manifest.digest,
            "split": reader.split,
            "num_images": len(reader),
            "ig_baseline": f"{CENTRE} of train" if prior is not None else UNIFORM,
            "best_maps": best_maps,
            "sigma": round(sigma, 2),
            **(about or {}),
        },
    )
    table.about["notes"] = [*table.about.get("notes", []), *_notes(table, reader)]
    return table


def find_prior(reader: ShardReader) -> NDArray[np.float32] | None:
    """Return the mean training density (H, W) of a data set; None without a train split."""
    if reader.manifest.centre_prior_sha256 is None:
        return None
    return reader.manifest.centre_prior(reader.folder)


@torch.inference_mode()
def score_part(
    part: list[int],
    device: torch.device,
    sources: Sequence[MapSource],
    reader: ShardReader,
    context: ScoringContext,
) -> list[dict[str, Any]]:
    """Return a record for each map and image of a part."""
    records: list[dict[str, Any]] = []
    for position in part:
        split_image = prepare_split_image(position, reader.decoded(position), device)
        maps = (row for source in sources for row in source.rows(split_image))
        records += score_image(split_image, maps, context)
    return records


def score_image(
    split_image: SplitImage, maps: Iterable[ScoredMap], context: ScoringContext
) -> Iterator[dict[str, Any]]:
    """Yield a record of each map of an image: its scores under both rule books."""
    device, size = split_image.targets.density.device, split_image.targets.size
    baseline = ig_baseline(context.prior, size).to(device)
    seeds = torch.tensor([split_image.position], device=device)
    others = {
        rules: counts.to(device)
        for rules, counts in context.nonfixations(split_image.position, size).items()
    }
    for row in maps:
        targets = row.targets or split_image.targets
        if not row.saliency.isfinite().all():
            raise ValueError(
                f"{split_image.sample.key}: the map of {row.name} has values that are not finite"
            )
        inputs: dict[str, Any] = {
            "fixations": targets.fixation_map(),
            "density": targets.density,
            "baseline_log_density": baseline,
        }
        mit = saliency_metrics.score(
            row.saliency, **inputs, rules="mit", seeds=seeds, nonfixations=others.get("mit")
        )
        inputs["nonfixations"] = others.get("tuebingen")
        tuebingen = saliency_metrics.score(row.saliency, **inputs, log_density=row.log_density)
        coverages: dict[str, float] = {}
        if row.log_density is not None and row.name not in NOT_MODELS:
            log_density, seen = (
                maps[0, 0].cpu().numpy() for maps in (row.log_density, inputs["fixations"])
            )
            shares = coverage(log_density, seen).tolist()
            coverages = dict(zip(COVERAGES, shares, strict=True))
            if context.best_maps and others:
                tuebingen = metric_specific_maps.score_density_maps(
                    row.log_density,
                    **inputs,
                    sigma=context.sigma,
                    num_fixations=context.num_fixations,
                    seeds=seeds,
                )
        yield {
            "model": row.name,
            "image": split_image.sample.key,
            "num_fixations": int(targets.counts.sum()),
            "constant": bool(row.saliency.amin() == row.saliency.amax()),
            **{f"mit_{name}": value.item() for name, value in mit.items()},
            **{f"tuebingen_{name}": value.item() for name, value in tuebingen.items()},
            **coverages,
        }


def _notes(table: ScoreTable, reader: ShardReader) -> list[str]:
    """Return notes on left-out fixations and samples, and on constant maps."""
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
    flat = table.frame[table.frame["constant"] & (table.frame["model"] != UNIFORM)]
    for model, images in flat.groupby("model", sort=False)["image"]:
        notes.append(
            f"{len(images)} maps of {model} are constant (first: {images.iloc[0]}): they have NSS "
            "0, CC 0 and AUC .5, and count as a uniform density in the other metrics"
        )
    return notes
