"""What is tried next: first what is named, then what Optuna proposes from all that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState
from ray.tune.search import Searcher

from tune.objective import direction
from tune.results import Spec, TrialRecord, find_record, find_records
from tune.space import Point, Space
from tune.trial import SPEC

Sampler = Literal["tpe", "random"]
NUM_DRAWS = 20
"""Of a sampler before it is passed over, when all that it draws was tried before."""


class Proposals(Searcher):  # type: ignore[misc]
    """Gives Ray Tune the specs in `first`, then ones at points that a sampler draws.

    What the sampler learns from are the records of the search, those of earlier calls of the
    command too.  study: None when there is nothing to draw beyond `first`.
    No weights are tried twice: whole regions of the space mean the same ones, since small shares
    become 0, and a sampler that found the best there would draw nothing else.
    """

    def __init__(
        self,
        search: Path,
        first: Sequence[Spec],
        study: optuna.Study | None = None,
        space: Space | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.search, self.waiting = search, list(first)
        self.study, self.space, self.seed = study, space, seed
        self.specs: dict[str, Spec] = {}
        self.asked: dict[str, optuna.trial.Trial] = {}
        known = [record.spec for record in find_records(search)] if space else []
        self.tried = {self._meaning(spec.point) for spec in [*known, *self.waiting]}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The config of the next trial."""
        if self.waiting:
            spec = self.waiting.pop(0)
        elif self.study is None or self.space is None:
            return str(self.FINISHED)
        else:
            self.asked[trial_id], point = self._draw(self.study, self.space)
            self.tried.add(self._meaning(point))
            spec = Spec(point=point, seed=self.seed)
        self.specs[trial_id] = spec
        return {SPEC: spec}

    def _draw(
        self, study: optuna.Study, space: Space
    ) -> tuple[optuna.trial.Trial, dict[str, float]]:
        """The first point the sampler draws that means something new, else an even draw."""
        for _ in range(NUM_DRAWS):
            asked = study.ask(distributions(space))
            if self._meaning(asked.params) not in self.tried:
                return asked, dict(asked.params)
            study.tell(asked, state=TrialState.FAIL)
        sampler, study.sampler = study.sampler, optuna.samplers.RandomSampler(len(self.tried))
        asked = study.ask(distributions(space))
        study.sampler = sampler
        return asked, dict(asked.params)

    def _meaning(self, point: Point) -> tuple[float, ...]:
        """What a point says to training, to 2 digits."""
        if self.space is None:
            return ()
        numbers = [*asdict(self.space.weights(point)).values()]
        numbers += [point[name] for name in self.space.also]
        return tuple(round(number, 2) for number in numbers)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the sampler what became of a trial."""
        spec = self.specs.pop(trial_id, None)
        if spec is None or self.study is None or self.space is None:
            return
        asked = self.asked.pop(trial_id, None)
        record = find_record(self.search, spec)
        if asked is not None:
            # Added below with its scores; the one that was asked for only kept the place.
            self.study.tell(asked, state=TrialState.FAIL)
        if record is not None and not error:
            learn(self.study, self.space, record)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records are what a search goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space in Optuna's words."""
    return {
        name: FloatDistribution(each.low, each.high, log=each.log)
        for name, each in space.dimensions().items()
    }


def make_study(
    search: Path, space: Space, objectives: Sequence[str], sampler: Sampler, seed: int, num: int
) -> optuna.Study:
    """A study that knows the search's records.  num: trials of the whole search."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = find_records(search)
    # A sampler that is made again would draw again what it drew first.
    seed = seed * 10_007 + len(known)
    drawn: optuna.samplers.BaseSampler
    if sampler == "random":
        drawn = optuna.samplers.RandomSampler(seed=seed)
    else:
        # It learns after 10 random points, which for a few trials would be all.
        startup = min(10, max(3, num // 4))
        drawn = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
    up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    study = optuna.create_study(
        directions=[down if direction(name) == "min" else up for name in objectives],
        sampler=drawn,
    )
    study.set_user_attr("objectives", list(objectives))
    for record in known:
        learn(study, space, record)
    return study


def learn(study: optuna.Study, space: Space, record: TrialRecord) -> None:
    """Adds a trial's scores to a study; nothing of one that failed or has none yet."""
    if not record.scores or record.state == "failed":
        return
    objectives: list[str] = study.user_attrs["objectives"]
    several = len(objectives) > 1
    stopped = record.num_trained < record.num_epochs
    steps = {r["epoch"]: r["scores"][objectives[0]] for r in record.history if r["epoch"]}
    pruned = stopped and not several  # Optuna prunes by one objective alone.
    study.add_trial(
        optuna.create_trial(
            params=record.spec.point,
            distributions=distributions(space),
            values=None if pruned else [record.scores[name] for name in objectives],
            intermediate_values={} if several else steps,
            state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        )
    )
