"""Asynchronous successive halving (ASHA): which trials are stopped early."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tune.objective import direction
from tune.results import find_records
from tune.trial import EPOCH, SCORE, SPEC, Setting


@dataclass(frozen=True, kw_only=True)
class Halving:
    """ASHA: at epochs grace, grace * factor, ... a trial stops unless among the best 1 / factor."""

    grace: int
    factor: int


def make_scheduler(setting: Setting, halving: Halving | None) -> TrialScheduler:
    """ASHA that knows the scores of earlier calls, or none that stops a trial."""
    if halving is None:
        return FIFOScheduler()
    scheduler = RememberingASHA(
        time_attr=EPOCH,
        metric=SCORE,
        mode=direction(setting.stop_by),
        grace_period=halving.grace,
        reduction_factor=halving.factor,
        # Beyond the last epoch: a trial that reaches it ends by itself, and in good order.
        max_t=setting.trial_epochs + 1,
    )
    for record in find_records(setting.folder):
        trial = SimpleNamespace(config={SPEC: record.spec})
        scheduler.on_trial_add(None, trial)
        for report in record.history if record.state != "failed" else ():
            score = report["scores"][setting.stop_by]
            scheduler.on_trial_result(None, trial, {EPOCH: report["epoch"], SCORE: score})
    scheduler.stopped = frozenset()  # What it would say today of earlier calls' trials.
    return scheduler


class RememberingASHA(ASHAScheduler):  # type: ignore[misc]
    """ASHA that knows which trials it stopped, and a trial that goes on as the one it was."""

    stopped: frozenset[str] = frozenset()

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        """A trial begins, or goes on."""
        super().on_trial_add(controller, _named(trial))

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        action: str = super().on_trial_result(controller, _named(trial), result)
        if action == TrialScheduler.STOP:
            self.stopped |= {_named(trial).trial_id}
        return action

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial ended."""
        super().on_trial_complete(controller, _named(trial), result)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        """A trial failed, or was not begun."""
        super().on_trial_remove(controller, _named(trial))


def _named(trial: Any) -> Any:
    """A trial under the name that it has in all calls of the command; Tune's own is of one call."""
    return SimpleNamespace(trial_id=trial.config[SPEC].key)


def stopped_by(scheduler: TrialScheduler) -> frozenset[str]:
    """The trials that a scheduler stopped early, by the keys of their specs."""
    return scheduler.stopped if isinstance(scheduler, RememberingASHA) else frozenset()
