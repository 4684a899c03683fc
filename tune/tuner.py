"""Ray Tune around the trials: what proposes weights, how many run at once, a line for each end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import optuna
from ray import tune
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from tune import results
from tune.config import LossWeightsCommand
from tune.objective import SCORE, Setting, direction, fail, one_line, run_trial
from tune.space import EQUAL, Dimension, short

# A trial's own process only waits for its workers: a CPU for it would be one that they wait for.
DRIVER = {"CPU": 0, "node:__internal_head__": 0.01}
FOLDER = "tuner"


def num_at_once(num_workers: int, use_gpu: bool, free: Mapping[str, float]) -> int:
    """Trials that the free resources hold at once.  Raises ValueError when not even one fits."""
    kinds = ("CPU", "GPU") if use_gpu else ("CPU",)
    for kind in kinds:
        if free.get(kind, 0) < num_workers:
            raise ValueError(
                f"a trial wants {num_workers} {kind}s, the cluster has {free.get(kind, 0):g} free"
            )
    return min(int(free[kind] // num_workers) for kind in kinds)


def make_tuner(command: LossWeightsCommand, setting: Setting, at_once: int) -> tune.Tuner:
    """A tuner for all trials, or one that goes on with those of an interrupted search."""
    trainable = tune.with_resources(tune.with_parameters(run_trial, setting=setting), DRIVER)
    path = str(setting.place.folder / FOLDER)
    if tune.Tuner.can_restore(path):
        return tune.Tuner.restore(path, trainable, restart_errored=command.retry_failed)
    return tune.Tuner(
        trainable,
        param_space={name: domain(d) for name, d in command.space.dimensions().items()},
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode=direction(command.objective),
            num_samples=command.num_trials,
            max_concurrent_trials=at_once,
            search_alg=make_sampler(command),
        ),
        run_config=tune.RunConfig(
            name=FOLDER,
            storage_path=str(setting.place.folder),
            verbose=0,
            callbacks=[Progress(command, setting)],
            failure_config=tune.FailureConfig(max_failures=0, fail_fast=False),
        ),
    )


def domain(dimension: Dimension) -> Any:
    """A dimension in Ray Tune's words."""
    draw = tune.loguniform if dimension.log else tune.uniform
    return draw(dimension.low, dimension.high)


def make_sampler(command: LossWeightsCommand) -> Searcher | SearchAlgorithm:
    """Proposes points, first that of 1:1:1."""
    first = [command.space.point(EQUAL)]
    if command.sampler == "random":
        return BasicVariantGenerator(points_to_evaluate=first, random_state=command.seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Optuna learns after 10 random points, which for a few trials would be all.
    startup = min(10, max(3, command.num_trials // 4))
    sampler = optuna.samplers.TPESampler(seed=command.seed, n_startup_trials=startup)
    return OptunaSearch(points_to_evaluate=first, sampler=sampler)


class Progress(tune.Callback):  # type: ignore[misc]
    """A line for each trial that ends; marks those whose process died without a word.

    Knows only what lies on disk, since Tune restores it with the search.
    """

    def __init__(self, command: LossWeightsCommand, setting: Setting) -> None:
        self.trials, self.space = setting.place.folder / results.TRIALS, setting.space
        self.num_trials, self.objective = command.num_trials, command.objective

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called when a trial finished."""
        self._say(trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Called when a trial failed."""
        folder = self.trials / trial.trial_id
        if results.find_record(folder) is None:
            cause = one_line(trial.get_error() or RuntimeError("its process died"))
            fail(folder, self.space.weights(trial.config), cause, started=time.time())
        self._say(trial)

    def _say(self, trial: Any) -> None:
        records = results.find_records(self.trials.parent)
        record = results.find_record(self.trials / trial.trial_id)
        assert record is not None
        line = f"{len(records)}/{self.num_trials} {short(record.weights)}: "
        if record.state == "failed":
            line += f"failed: {record.cause}"
        else:
            line += f"{self.objective} {record.scores[self.objective]:.4f}"
        best = results.best_record(records, self.objective)
        if best:
            line += f"; best {best.scores[self.objective]:.4f} with {short(best.weights)}"
        print(line, flush=True)
