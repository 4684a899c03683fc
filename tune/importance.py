"""How much each weight matters to an objective, over the trials of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import optuna
from optuna.distributions import FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from tune.results import TrialRecord, scored
from tune.space import FACTORS, TOTAL

MIN_TRIALS = 8
"""Fewer say nothing about importance."""


def coordinates(record: TrialRecord, terms: Sequence[str]) -> dict[str, float]:
    """Where a trial lies: the share of each term in 0..1, and the factors that were searched."""
    weights = asdict(record.weights)
    shares = {term: min(1.0, weights[term] / TOTAL) for term in terms}
    return shares | {name: record.spec.point[name] for name in record.other}


def common_epoch(records: Sequence[TrialRecord]) -> int:
    """The last epoch that every trial with scores has: where they can be compared."""
    return min((record.num_trained for record in scored(records)), default=0)


def importance(
    records: Sequence[TrialRecord], objective: str, terms: Sequence[str]
) -> dict[str, float]:
    """The share of the objective's variance that each coordinate explains (functional ANOVA by
    random forests), largest first; empty for few trials or equal scores.

    Scores are of the last epoch that all trials have.
    """
    records, epoch = scored(records), common_epoch(records)
    values = {
        record.spec.key: report["scores"][objective]
        for record in records
        for report in record.history
        if report["epoch"] == epoch
    }
    if len(values) < MIN_TRIALS or len(set(values.values())) == 1:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for record in records:
        point = coordinates(record, terms)
        ranges = {name: FACTORS[name] for name in record.other}
        study.add_trial(
            optuna.create_trial(
                params=point,
                distributions={
                    name: FloatDistribution(
                        ranges[name].low if name in ranges else 0.0,
                        ranges[name].high if name in ranges else 1.0,
                    )
                    for name in point
                },
                value=values[record.spec.key],
            )
        )
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))
