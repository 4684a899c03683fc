"""What is tried next, and what a search that goes on remembers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from tune.halving import Halving, make_scheduler, stopped_by
from tune.proposals import Proposals, learn, make_study
from tune.results import Spec
from tune.space import EQUAL, Space
from tune.trial import EPOCH, SCORE, SPEC, Setting

SPACE = Space()


def study_of(folder, objectives=("ig",), sampler="tpe", num=32) -> optuna.Study:
    return make_study(folder, SPACE, objectives, sampler, 0, num)


def proposals_in(folder, first=(), **changes) -> Proposals:
    return Proposals(folder, first, study_of(folder, **changes), SPACE, 0)


def test_named_weights_are_proposed_first_then_drawn_ones(tmp_path):
    first = Spec(point=SPACE.point(EQUAL), seed=0)
    proposals = proposals_in(tmp_path, [first])
    specs = [proposals.suggest(str(number))[SPEC] for number in range(4)]  # type: ignore[index]
    assert specs[0] == first
    assert len({spec.key for spec in specs}) == 4


def test_a_seed_repeats_what_is_drawn(tmp_path):
    def drawn():
        proposals = proposals_in(tmp_path)
        return [proposals.suggest(str(number)) for number in range(3)]

    assert drawn() == drawn()


def test_a_search_that_goes_on_draws_other_points_than_it_drew_at_first(tmp_path, make_record):
    spec = proposals_in(tmp_path).suggest("a")[SPEC]  # type: ignore[index]
    replace(make_record(0, 0.3), spec=spec).save(tmp_path)
    assert proposals_in(tmp_path).suggest("b")[SPEC] != spec  # type: ignore[index]


def test_no_weights_are_tried_twice_though_the_best_ones_fill_a_region(tmp_path, make_record):
    """Whoever weighs NSS most is best, and all points with small kl and cc mean nss alone."""
    proposals = proposals_in(tmp_path)
    seen = []
    for number in range(40):
        spec = proposals.suggest(str(number))[SPEC]  # type: ignore[index]
        weights = SPACE.weights(spec.point)
        seen.append((round(weights.kl, 2), round(weights.cc, 2), round(weights.nss, 2)))
        replace(make_record(number, weights.nss), spec=spec).save(tmp_path)
        proposals.on_trial_complete(str(number))
    assert len(set(seen)) == len(seen)
    again = proposals_in(tmp_path)
    weights = SPACE.weights(again.suggest("next")[SPEC].point)  # type: ignore[index]
    assert (round(weights.kl, 2), round(weights.cc, 2), round(weights.nss, 2)) not in seen


def test_without_a_study_only_what_is_named_is_proposed(tmp_path):
    spec = Spec(point=SPACE.point(EQUAL), seed=4, final=True)
    proposals = Proposals(tmp_path, [spec])
    assert proposals.suggest("a") == {SPEC: spec}
    assert proposals.suggest("b") == Proposals.FINISHED
    proposals.on_trial_complete("a")


def test_what_became_of_a_trial_reaches_the_sampler(tmp_path, make_record):
    proposals = proposals_in(tmp_path)
    spec = proposals.suggest("a")[SPEC]  # type: ignore[index]
    replace(make_record(0, 0.7), spec=spec).save(tmp_path)
    proposals.on_trial_complete("a")
    assert proposals.study is not None
    (known,) = proposals.study.get_trials(states=[TrialState.COMPLETE])
    assert known.values == [0.7]
    assert known.params == spec.point


def test_a_trial_that_was_stopped_early_is_pruned_at_the_epochs_it_had(tmp_path, make_record):
    study = study_of(tmp_path)
    learn(study, SPACE, make_record(0, 0.7, state="stopped", num_epochs=4))
    learn(study, SPACE, make_record(1, 0.7, state="failed"))
    (known,) = study.trials
    assert known.state == TrialState.PRUNED
    assert known.intermediate_values == {1: 0.7}


def test_several_objectives_are_learned_from_together(tmp_path, make_record):
    make_record(0, 0.7).save(tmp_path)
    study = study_of(tmp_path, objectives=("nss", "kl"))
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.trials[0].values == pytest.approx([2.7, 0.65])
    assert Proposals(tmp_path, [], study, SPACE).suggest("a") is not None


def test_a_sampler_finds_better_weights_than_it_began_with(tmp_path, make_record):
    """TPE on a made-up objective: the share of KL is best at .8."""
    proposals, scores = proposals_in(tmp_path), []
    for number in range(40):
        spec = proposals.suggest(str(number))[SPEC]  # type: ignore[index]
        ig = -abs(SPACE.weights(spec.point).kl / 3 - 0.8)
        scores.append(ig)
        replace(make_record(number, ig), spec=spec).save(tmp_path)
        proposals.on_trial_complete(str(number))
    assert sum(scores[20:]) / 20 > sum(scores[:10]) / 10 + 0.1


def setting_in(folder) -> Setting:
    return SimpleNamespace(folder=folder, stop_by="ig", trial_epochs=9)  # type: ignore[return-value]


def spec_of(name) -> Spec:
    return Spec(point={name: 1.0}, seed=0)


def decide(scheduler, name, epoch, ig) -> str:
    trial = SimpleNamespace(trial_id="of this call", config={SPEC: spec_of(name)})
    if epoch == 1:
        scheduler.on_trial_add(None, trial)
    action: str = scheduler.on_trial_result(None, trial, {EPOCH: epoch, SCORE: ig})
    return action


def test_a_trial_stops_that_is_not_among_the_best_third_of_those_known(tmp_path, make_record):
    for number, ig in enumerate((0.1, 0.2, 0.3)):
        make_record(number, ig, epochs=3).save(tmp_path)
    scheduler = make_scheduler(setting_in(tmp_path), Halving(grace=1, factor=3))
    assert decide(scheduler, "good", 1, 0.35) == TrialScheduler.CONTINUE
    assert decide(scheduler, "bad", 1, 0.15) == TrialScheduler.STOP
    assert scheduler.stopped == {spec_of("bad").key}  # type: ignore[attr-defined]


def test_a_trial_that_goes_on_is_ranked_once_at_each_stop(tmp_path, make_record):
    for number, ig in enumerate((0.1, 0.2)):
        make_record(number, ig).save(tmp_path)
    broken = replace(make_record(2, 0.3, state="running"), spec=spec_of("broken"))
    broken.save(tmp_path)
    scheduler = make_scheduler(setting_in(tmp_path), Halving(grace=1, factor=3))
    assert decide(scheduler, "broken", 2, 0.05) == TrialScheduler.CONTINUE
    (rung,) = [known for milestone, known in scheduler._brackets[0]._rungs if milestone == 1]  # type: ignore[attr-defined]
    assert sorted(rung.values()) == [0.1, 0.2, 0.3]


def test_a_trial_that_goes_on_was_not_stopped_whatever_came_before_it(tmp_path, make_record):
    make_record(0, 0.9).save(tmp_path)
    make_record(1, 0.1, state="running").save(tmp_path)
    scheduler = make_scheduler(setting_in(tmp_path), Halving(grace=1, factor=3))
    assert stopped_by(scheduler) == frozenset()


def test_a_trial_at_its_last_epoch_ends_by_itself(tmp_path):
    scheduler = make_scheduler(setting_in(tmp_path), Halving(grace=1, factor=3))
    for epoch in range(1, 10):
        assert decide(scheduler, "alone", epoch, 0.1) == TrialScheduler.CONTINUE


def test_without_halving_no_trial_stops(tmp_path):
    scheduler = make_scheduler(setting_in(tmp_path), None)
    assert decide(scheduler, "a", 1, 9.0) == decide(scheduler, "b", 1, 0.0)
