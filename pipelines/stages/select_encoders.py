"""Choose which encoders to join: train a decoder on each subset, over cached readouts.

The validation images are split in two halves.  One chooses each decoder's epoch and the subset;
the other is held out, and scores the choice.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emlnet.models.eml_net import encoder_names
from emlnet.models.encoder import Encoder
from emlnet.training.fit import fit
from emlnet.training.state import better, start
from emlnet.training.validation import evaluate
from pipelines.ray_cluster import tasks
from pipelines.stages.decoder_stage import CachedBatches, CacheSource, DecoderJob
from pipelines.stages.frozen_encoders import FrozenEncoder
from pipelines.stages.run_context import RunContext
from pipelines.tracking.run_folder import write_json

FILE = "selection.json"
MAX_EXHAUSTIVE = 4
"""Up to so many encoders all subsets are tried; of more, encoders are added one by one."""
COLUMNS = ("nss", "cc", "kl", "sim", "auc_judd")

Members = tuple[int, ...]
"""Positions of a subset's encoders, ascending."""
Positions = NDArray[np.int64]
"""Positions of samples in a split."""


@dataclass(frozen=True, kw_only=True)
class SubsetResult:
    """The decoder of one subset.

    epoch: the best on the choosing half, which was kept.  choosing, held_out: its scores on the
    two halves.
    """

    members: Members
    epoch: int
    choosing: dict[str, float]
    held_out: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """All subsets that were tried, in order, and the best by a metric.

    num_choosing, num_held_out: images of the two halves.
    """

    names: tuple[str, ...]
    metric: str
    num_choosing: int
    num_held_out: int
    results: tuple[SubsetResult, ...]
    best: Members

    def result(self, members: Members) -> SubsetResult:
        """Return the result of a subset."""
        return next(result for result in self.results if result.members == members)

    def name(self, members: Members) -> str:
        """Return a subset's name in tables."""
        return " + ".join(self.names[member].removeprefix("encoder ") for member in members)

    def markdown(self) -> str:
        """The table of all subsets, the best on the held-out half, and what each encoder adds."""
        head = ["| encoders | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
        lines = list(head)
        for result in self.results:
            mark = " *" if result.members == self.best else ""
            lines.append(_row(f"{self.name(result.members)}{mark}", result.choosing))
        lines += [
            "",
            f"\\* best {self.metric} on the {self.num_choosing} validation images of this table, "
            f"which chose it. On the other {self.num_held_out}, which were held out:",
            "",
            *head,
            _row(self.name(self.best), self.result(self.best).held_out),
        ]
        for member in self.best:
            if others := _without(self.best, member):
                name = f"without {self.name((member,))}"
                lines.append(_row(name, self.result(others).held_out))
        return "\n".join(lines)


def _row(name: str, scores: dict[str, float]) -> str:
    return f"| {name} | {' | '.join(f'{scores[column]:.4f}' for column in COLUMNS)} |"


def _without(members: Members, member: int) -> Members:
    return tuple(other for other in members if other != member)


def choose(
    num_encoders: int,
    metric: str,
    train: Callable[[Sequence[Members]], list[SubsetResult]],
    size: int = 0,
    known: Sequence[SubsetResult] = (),
) -> tuple[list[SubsetResult], Members]:
    """Return the results of subsets, and the best subset by the metric on the choosing half.

    train: returns the results of some subsets.  size: number of encoders to choose; 0: any.
    known: results of an earlier attempt.  Of subsets with equal scores the smaller is chosen.
    """
    tried = {result.members: result for result in known}

    def try_all(subsets: Sequence[Members]) -> None:
        new = [members for members in subsets if members not in tried]
        tried.update({result.members: result for result in train(new)} if new else {})

    def best(subsets: Sequence[Members]) -> Members:
        found = subsets[0]
        for members in subsets[1:]:
            if better(tried[members].choosing, tried[found].choosing, metric):
                found = members
        return found

    everyone = range(num_encoders)
    sizes = [size] if size else list(range(1, num_encoders + 1))
    if num_encoders <= MAX_EXHAUSTIVE:
        eligible = [members for number in sizes for members in combinations(everyone, number)]
        try_all(eligible)
    else:
        eligible = []
        grown: Members = ()
        for number in range(1, max(sizes) + 1):
            larger = [tuple(sorted((*grown, one))) for one in everyone if one not in grown]
            try_all(larger)
            grown = best(larger)
            eligible += [grown] if number in sizes else []
    choice = best(eligible)
    # What an encoder adds is what is lost without it.
    try_all([others for member in choice if (others := _without(choice, member))])
    results = sorted(tried.values(), key=lambda result: (len(result.members), result.members))
    return results, choice


def select_encoders(
    context: RunContext, encoders: Sequence[FrozenEncoder], job: DecoderJob, size: int = 0
) -> Selection:
    """Train decoders on subsets of encoders whose readouts are cached, as Ray tasks; pick the best.

    job: of all the encoders.  size: number of encoders to choose; 0: any.
    Results that the run's folder holds are not computed again.
    """
    path = context.folder / FILE
    results: list[SubsetResult] = []
    if path.is_file():
        for content in json.loads(path.read_text())["results"]:
            results.append(SubsetResult(**{**content, "members": tuple(content["members"])}))
    choosing, held_out = split_in_halves(len(job.reader("val")), job.seed)
    heads = [without_backbone(each.encoder) for each in encoders]

    def train(subsets: Sequence[Members]) -> list[SubsetResult]:
        jobs = [
            replace(
                job,
                encoders=tuple(heads[member] for member in members),
                caches=tuple(encoders[member].cache for member in members),
                num_examples=0,
            )
            for members in subsets
        ]
        new = tasks.spread(
            _train,
            tasks.split(len(subsets), 1),
            jobs,
            list(subsets),
            choosing,
            held_out,
            title="decoders over subsets of the encoders",
            unit="decoders",
            use_gpu=context.compute.use_gpu,
        )
        results.extend(new)
        write_json(path, {"results": [asdict(result) for result in results]})
        return new

    ordered, best = choose(len(encoders), job.plan.select, train, size, list(results))
    selection = Selection(
        names=tuple(encoder_names([each.encoder.config.backbone for each in encoders])),
        metric=job.plan.select,
        num_choosing=len(choosing),
        num_held_out=len(held_out),
        results=tuple(ordered),
        best=best,
    )
    write_json(path, asdict(selection))
    return selection


class SubsetSource(CacheSource):
    """Batches that validate on some samples of val."""

    def __init__(self, job: DecoderJob, device: torch.device, positions: Positions) -> None:
        super().__init__(job, 0, 1, device)
        self.positions = positions

    def val(self) -> CachedBatches:
        """Return the validation batches."""
        return self.images("val", self.positions)


def _train(
    part: list[int],
    device: torch.device,
    jobs: list[DecoderJob],
    subsets: list[Members],
    choosing: Positions,
    held_out: Positions,
) -> SubsetResult:
    """Train the decoder of the subset at the one position of the part."""
    (number,) = part
    job = jobs[number]
    torch.manual_seed(job.seed)
    source = SubsetSource(job, device, choosing)
    model: nn.Module = job.build().to(device)
    state = start(model, job.plan, source.steps_per_epoch)
    fit(state, job.plan, source)
    best = next(report for report in reversed(state.history) if report.best)
    model.load_state_dict({**model.state_dict(), **state.best_weights})
    return SubsetResult(
        members=subsets[number],
        epoch=best.epoch,
        choosing=best.scores,
        held_out=evaluate(model, source.images("val", held_out)),
    )


def split_in_halves(num_images: int, seed: int) -> tuple[Positions, Positions]:
    """Draw the images that choose; return their positions, and those of the others.

    Raises ValueError when there are fewer than two images.
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
    """Return a copy for decoding only, small enough to send to tasks."""
    return copy.deepcopy(encoder, {id(encoder.backbone): nn.Identity()})
