"""Which of several encoders to join: a decoder for each subset, over readouts that are cached.

The validation images are split in two. On one half the epoch of each decoder and the subset are
chosen; the other takes no part in choosing, and says what the choice is worth.
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
EXHAUSTIVE = 4
"""Of so many encoders all subsets are tried; of more, the best one grows by the best encoder."""
COLUMNS = ("nss", "cc", "kl", "sim", "auc_judd")

Members = tuple[int, ...]
"""Encoders of a subset, by their positions, ascending."""
Positions = NDArray[np.int64]
"""Samples of a split."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One subset's decoder.

    epoch: the best by the images that choose, which was kept.  chosen_on, held_out: its scores on
    those images, and on the others.
    """

    members: Members
    epoch: int
    chosen_on: dict[str, float]
    held_out: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """All subsets that were tried, in order, and the best.

    metric: by which.  num_choosing, num_held_out: images of the two halves.
    """

    names: tuple[str, ...]
    metric: str
    num_choosing: int
    num_held_out: int
    trials: tuple[Trial, ...]
    best: Members

    def trial(self, members: Members) -> Trial:
        """What came of a subset."""
        return next(trial for trial in self.trials if trial.members == members)

    def name(self, members: Members) -> str:
        """What a subset is called."""
        return " + ".join(self.names[member].removeprefix("encoder ") for member in members)

    def markdown(self) -> str:
        """The table, the choice on the held-out half, and what each encoder adds, as Markdown."""
        lines = ["| encoders | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
        for trial in self.trials:
            name, mark = self.name(trial.members), " *" if trial.members == self.best else ""
            lines.append(f"| {name}{mark} | {_cells(trial.chosen_on)} |")
        chosen = self.trial(self.best)
        lines += [
            "",
            f"\\* best {self.metric} on the {self.num_choosing} validation images that this table "
            f"is of: it was chosen on them. On the {self.num_held_out} that took no part in "
            "choosing:",
            "",
            *lines[:2],
            f"| {self.name(self.best)} | {_cells(chosen.held_out)} |",
        ]
        for member, without in self.left_out():
            name = self.names[member].removeprefix("encoder ")
            lines.append(f"| without {name} | {_cells(without.held_out)} |")
        return "\n".join(lines)

    def left_out(self) -> list[tuple[int, Trial]]:
        """Of each encoder of the best subset, what came of the others without it."""
        rest = [(m, tuple(o for o in self.best if o != m)) for m in self.best]
        return [(member, self.trial(others)) for member, others in rest if others]


def _cells(scores: dict[str, float]) -> str:
    return " | ".join(f"{scores[column]:.4f}" for column in COLUMNS)


def choose(
    num_encoders: int,
    metric: str,
    train: Callable[[Sequence[Members]], list[Trial]],
    size: int = 0,
    known: Sequence[Trial] = (),
) -> tuple[list[Trial], Members]:
    """Trials of subsets, and the best subset by the metric on the images that choose.

    train: the trials of some subsets.  size: how many encoders to choose; 0: any number.
    known: trials of an earlier attempt.  Of subsets that score the same the smaller is chosen.
    """
    tried = {trial.members: trial for trial in known}

    def try_all(subsets: Sequence[Members]) -> None:
        new = [members for members in subsets if members not in tried]
        tried.update({trial.members: trial for trial in train(new)} if new else {})

    def best(subsets: Sequence[Members]) -> Members:
        found = subsets[0]
        for members in subsets[1:]:
            if better(tried[members].chosen_on, tried[found].chosen_on, metric):
                found = members
        return found

    everyone = range(num_encoders)
    sizes = [size] if size else list(range(1, num_encoders + 1))
    if num_encoders <= EXHAUSTIVE:
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
    # What each encoder adds is what is lost without it.
    try_all([others for one in choice if (others := tuple(o for o in choice if o != one))])
    trials = sorted(tried.values(), key=lambda trial: (len(trial.members), trial.members))
    return trials, choice


def select_encoders(
    context: RunContext, encoders: Sequence[FrozenEncoder], job: DecoderJob, size: int = 0
) -> Selection:
    """Tries subsets of encoders whose readouts are cached, as Ray tasks; keeps the best.

    job: of all the encoders.  size: how many to choose; 0: any number.
    Trials that the place's folder holds are not made again.
    """
    path = context.folder / FILE
    known: list[Trial] = []
    if path.is_file():
        for content in json.loads(path.read_text())["trials"]:
            known.append(Trial(**{**content, "members": tuple(content["members"])}))
    split = halves(len(job.reader("val")), job.seed)
    heads = [without_backbone(each.encoder) for each in encoders]
    made = list(known)

    def train(subsets: Sequence[Members]) -> list[Trial]:
        jobs = [
            replace(
                job,
                encoders=tuple(heads[member] for member in members),
                caches=tuple(encoders[member].cache for member in members),
                num_examples=0,
            )
            for members in subsets
        ]
        trials = tasks.spread(
            _train,
            tasks.split(len(subsets), 1),
            jobs,
            list(subsets),
            split,
            title="decoders over subsets of the encoders",
            unit="decoders",
            use_gpu=context.compute.use_gpu,
        )
        made.extend(trials)
        write_json(path, {"trials": [asdict(trial) for trial in made]})
        return trials

    trials, choice = choose(len(encoders), job.plan.select, train, size, known)
    selection = Selection(
        names=tuple(encoder_names([each.encoder.config.backbone for each in encoders])),
        metric=job.plan.select,
        num_choosing=len(split[0]),
        num_held_out=len(split[1]),
        trials=tuple(trials),
        best=choice,
    )
    write_json(path, asdict(selection))
    return selection


class SubsetSource(CacheSource):
    """Batches that validate on some positions of val."""

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
    split: tuple[Positions, Positions],
) -> Trial:
    """Trains the decoder of one subset, by its position."""
    (number,) = part
    job = jobs[number]
    torch.manual_seed(job.seed)
    source = SubsetSource(job, device, split[0])
    model: nn.Module = job.build().to(device)
    state = start(model, job.plan, source.steps_per_epoch)
    fit(state, job.plan, source)
    best = next(report for report in reversed(state.history) if report.best)
    model.load_state_dict({**model.state_dict(), **state.best_weights})
    return Trial(
        members=subsets[number],
        epoch=best.epoch,
        chosen_on=best.scores,
        held_out=evaluate(model, source.images("val", split[1])),
    )


def halves(num_images: int, seed: int) -> tuple[Positions, Positions]:
    """Positions of the images that choose, and of those that take no part; drawn by the seed.

    Raises ValueError when there are less than two.
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
    """A copy for decoding alone: what is sent to tasks is small."""
    return copy.deepcopy(encoder, {id(encoder.backbone): nn.Identity()})
