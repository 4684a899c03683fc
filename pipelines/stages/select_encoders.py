"""Choose which encoders to join: train a decoder on each subset, over cached readouts.

The validation images are split in two halves.  One chooses each decoder's epoch and the subset;
the other is held out, and scores the choice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from emlnet.models.eml_net import encoder_names
from emlnet.models.encoder import Encoder
from emlnet.training.fit import fit
from emlnet.training.state import is_better, start
from emlnet.training.validation import TrainBatch, evaluate
from pipelines.ray_cluster import tasks
from pipelines.stages.decoder_stage import CacheSource, DecoderJob
from pipelines.stages.stage import Stage
from pipelines.tracking.run_folder import read_json, write_json

FILE = "selection.json"
MAX_EXHAUSTIVE = 4
"""Above this number of encoders the search is greedy; up to it all subsets are tried."""
COLUMNS = ("nss", "cc", "kl", "sim", "auc_judd")

Subset = tuple[int, ...]
"""Positions of a subset's encoders, ascending."""
Positions = NDArray[np.int64]
"""Positions of samples in a split."""


@dataclass(frozen=True, kw_only=True)
class SubsetResult:
    """The result of one subset's decoder.

    epoch: the best on the choosing half.  choosing, held_out: its scores on the two halves.
    """

    members: Subset
    epoch: int
    choosing: dict[str, float]
    held_out: dict[str, float]


def choose(
    num_encoders: int,
    metric: str,
    train: Callable[[Sequence[Subset]], list[SubsetResult]],
    size: int = 0,
    known: Sequence[SubsetResult] = (),
) -> tuple[list[SubsetResult], Subset]:
    """Try subsets; return their results and the best subset on the choosing half.

    train: trains a decoder on each of some subsets.  size: number of encoders to choose; 0: any.
    known: results of an earlier attempt.  The smaller subset wins a tie.
    """
    tried = {result.members: result for result in known}

    def best_of(subsets: Sequence[Subset]) -> Subset:
        if new := [members for members in subsets if members not in tried]:
            tried.update({result.members: result for result in train(new)})
        found = subsets[0]
        for members in subsets[1:]:
            if is_better(tried[members].choosing, tried[found].choosing, metric):
                found = members
        return found

    everyone = range(num_encoders)
    sizes = [size] if size else list(range(1, num_encoders + 1))
    eligible: list[Subset] = []
    if num_encoders <= MAX_EXHAUSTIVE:
        eligible = [members for number in sizes for members in combinations(everyone, number)]
    else:
        grown: Subset = ()
        for number in range(1, max(sizes) + 1):
            grown = best_of([tuple(sorted((*grown, m))) for m in everyone if m not in grown])
            eligible += [grown] if number in sizes else []
    choice = best_of(eligible)
    if len(choice) > 1:  # To show what each encoder adds, leave each out.
        best_of([tuple(m for m in choice if m != member) for member in choice])
    results = sorted(tried.values(), key=lambda result: (len(result.members), result.members))
    return results, choice


def select_encoders(stage: Stage, size: int = 0) -> tuple[Subset, str]:
    """Train decoders on subsets of a stage's encoders, as Ray tasks.

    size: number of encoders to choose; 0: any.  Results in the run's folder are reused.
    Returns the best subset and a Markdown table of all.
    """
    job, context = stage.job, stage.context
    assert isinstance(job, DecoderJob)
    path = context.folder / FILE
    known = (read_json(path) or {"results": []})["results"]
    results = [SubsetResult(**{**entry, "members": tuple(entry["members"])}) for entry in known]
    halves = split_in_halves(len(job.reader("val")), job.seed)
    small = replace(job, encoders=tuple(map(without_backbone, job.encoders)))

    def train(subsets: Sequence[Subset]) -> list[SubsetResult]:
        new = tasks.map_parts(
            _train,
            tasks.split(len(subsets), 1),
            list(subsets),
            small,
            halves,
            title="decoders over subsets of the encoders",
            unit="decoder",
            use_gpu=context.compute.use_gpu,
        )
        results.extend(new)
        write_json(path, {"results": [asdict(result) for result in results]})
        return new

    names = encoder_names([encoder.config.backbone for encoder in job.encoders])
    ordered, best = choose(len(names), job.plan.select, train, size, list(results))
    table = describe_choice(ordered, best, names, job.plan.select, halves)
    content = {"names": names, "best": best, "results": [asdict(result) for result in ordered]}
    write_json(path, content)
    return best, table


def describe_choice(
    results: Sequence[SubsetResult],
    best: Subset,
    names: Sequence[str],
    metric: str,
    halves: Sequence[Sized],
) -> str:
    """Return a Markdown table of all subsets with their scores on both halves."""
    choosing = pd.DataFrame([result.choosing for result in results])[list(COLUMNS)]
    held_out = pd.DataFrame([result.held_out for result in results])[list(COLUMNS)]
    table = choosing.join(held_out.add_suffix(", held out"))
    table.index = pd.Index(
        " + ".join(names[member].removeprefix("encoder ") for member in result.members)
        + (" *" if result.members == best else "")
        for result in results
    )
    return (
        f"```\n{table.to_string(float_format='{:.4f}'.format)}\n```\n"
        f"\\* the best {metric} on {len(halves[0])} validation images; the other "
        f"{len(halves[1])} were held out."
    )


class SubsetSource(CacheSource):
    """Batches with a part of val as validation images."""

    def __init__(self, job: DecoderJob, device: torch.device, positions: Positions) -> None:
        super().__init__(job, 0, 1, device)
        self.positions = positions

    def val(self) -> Iterator[TrainBatch]:
        """Return the validation batches."""
        return self.val_images(self.positions)


def _train(
    part: list[int],
    device: torch.device,
    subsets: list[Subset],
    job: DecoderJob,
    halves: tuple[Positions, Positions],
) -> SubsetResult:
    """Train the decoder of one subset; `part` holds only its index."""
    (number,) = part
    members, (choosing, held_out) = subsets[number], halves
    job = replace(
        job,
        encoders=tuple(job.encoders[member] for member in members),
        caches=tuple(job.caches[member] for member in members),
    )
    torch.manual_seed(job.seed)
    source = SubsetSource(job, device, choosing)
    model: nn.Module = job.build().to(device)
    state = start(model, job.plan, source.steps_per_epoch)
    fit(state, job.plan, source)
    best = next(report for report in reversed(state.history) if report.best)
    model.load_state_dict({**model.state_dict(), **state.best_weights})
    return SubsetResult(
        members=members,
        epoch=best.epoch,
        choosing=best.scores,
        held_out=evaluate(model, source.val_images(held_out)),
    )


def split_in_halves(num_images: int, seed: int) -> tuple[Positions, Positions]:
    """Split images at random; return the positions of the choosing and the held-out half.

    Raises ValueError if there are fewer than two images.
    """
    if num_images < 2:
        raise ValueError(
            f"val has {num_images} pictures; one half chooses and the other scores the choice, so "
            "it takes at least 2"
        )
    order = np.random.default_rng(seed).permutation(num_images)
    middle = (num_images + 1) // 2
    return np.sort(order[:middle]), np.sort(order[middle:])


def without_backbone(encoder: Encoder) -> Encoder:
    """Return a copy of an encoder without its backbone, small enough to send to tasks."""
    return copy.deepcopy(encoder, {id(encoder.backbone): nn.Identity()})
