from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from emlnet.losses import LossWeights
from emlnet.models.eml_net import CachedDecoder
from emlnet.training.fit import fit, train_epoch
from emlnet.training.state import start
from emlnet.training.validation import evaluate
from tests.emlnet.training.small_training import Batches, Calls, plan, train


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_the_loss_of_an_encoder_falls(make_encoder, steps, kind):
    _, reports = train(make_encoder(kind), plan(epochs=8), steps)
    first, last = reports[0].train_loss["total"], reports[-1].train_loss["total"]
    assert last < first - 0.3


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_the_loss_of_a_decoder_falls(make_net, steps, kind):
    # The corrections of a density decoder start at zero, so it needs more than a few steps.
    _, reports = train(make_net(("density", "eml"), kind), plan(epochs=8, lr=0.03), steps)
    losses = [entry.train_loss["total"] for entry in reports if entry.train_loss]
    assert losses[-1] < losses[0] - 0.05


def test_the_same_seed_gives_the_same_losses_and_scores(make_encoder, steps):
    one, other = (train(make_encoder(seed=3), plan(), steps)[1] for _ in range(2))
    assert [e.train_loss for e in one] == [e.train_loss for e in other]
    assert [e.scores for e in one] == [e.scores for e in other]


def test_an_epoch_reports_the_mean_over_its_images_of_every_weighted_term(make_encoder, steps):
    chosen = plan(loss_weights=LossWeights(kl=2, cc=0, nss=1), lr=1e-12)
    state = start(make_encoder(), chosen, len(steps))
    means = train_epoch(state, chosen, Batches(steps))
    assert list(means) == ["total", "kl", "nss"]
    assert means["total"] == pytest.approx(2 * means["kl"] + means["nss"], rel=1e-6)
    alone = []
    for one in steps:
        again = start(make_encoder(), chosen, 1)
        alone.append(train_epoch(again, chosen, Batches([one]))["total"])
    assert means["total"] == pytest.approx(sum(alone) / 3, rel=1e-4)


def test_samples_that_fill_up_the_last_step_change_nothing(
    make_encoder, make_photographs, make_step
):
    samples = make_photographs(6)
    whole = [make_step(samples[:4]), make_step(samples[4:])]
    filled = [make_step(samples[:4]), make_step(samples[4:] + samples[:2], [1, 1, 0, 0])]

    def last(steps):
        # BatchNorm would see the filling: in eval mode nothing else may.
        model = make_encoder()
        model.train = lambda mode=True: model
        return train(model, plan(epochs=1, clip_norm=0), steps, val=whole)

    (one, reports), (other, others) = last(whole), last(filled)
    for name, value in reports[0].train_loss.items():
        assert others[0].train_loss[name] == pytest.approx(value, rel=1e-5)
    for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_scores_skip_samples_that_fill_up_a_step(make_encoder, make_photographs, make_step):
    samples, model = make_photographs(3), make_encoder()
    whole = evaluate(model, [make_step(samples)])
    filled = evaluate(model, [make_step(samples[:2]), make_step(samples[2:] + samples[:1], [1, 0])])
    assert filled == pytest.approx(whole, rel=1e-6)


def test_fixation_scores_skip_images_that_nobody_looked_at(
    make_encoder, make_photographs, make_step
):
    first, second = make_photographs(2)
    unseen = dataclasses.replace(second, points=np.zeros((0, 2), np.int32))
    model = make_encoder()
    alone, both = (
        evaluate(model, [make_step([first])]),
        evaluate(model, [make_step([first, unseen])]),
    )
    assert both["nss"] == pytest.approx(alone["nss"])
    assert both["kl"] != pytest.approx(alone["kl"])


def test_a_mirrored_average_is_scored_when_asked(make_encoder, make_photographs, make_step):
    samples, model = make_photographs(2), make_encoder()
    plain = evaluate(model, [make_step(samples)])
    averaged = evaluate(model, [make_step(samples)], flip=True)
    mirrored = evaluate(model, [make_step(samples, flip=[True, True])], flip=True)
    assert averaged != pytest.approx(plain)
    assert averaged == pytest.approx(mirrored, rel=1e-5)


def test_evaluating_changes_neither_weights_nor_statistics(make_encoder, steps):
    model = make_encoder().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    evaluate(model, steps)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_best_epoch_is_kept_not_the_last(make_encoder, steps):
    weights, chosen = [], plan(epochs=4, lr=3.0, clip_norm=0, warmup=0.5)
    state = start(make_encoder(), chosen, len(steps))
    fit(
        state,
        chosen,
        Batches(steps),
        Calls(report=lambda entry, state: weights.append(copy.deepcopy(state.model.state_dict()))),
    )
    scores = [entry.scores["kl"] for entry in state.history]
    best = scores.index(min(scores))
    assert best < len(scores) - 1, "the plan was meant to overshoot"
    assert [entry.best for entry in state.history] == [
        score < min(scores[:number], default=math.inf) for number, score in enumerate(scores)
    ]
    assert all(torch.equal(value, weights[best][key]) for key, value in state.best_weights.items())


def test_a_decoder_that_starts_ready_is_a_candidate_before_any_training(make_net, steps):
    net = make_net(("density", "density"))
    given = [((net.readouts(image), (32, 48)), targets) for (image,), targets in steps]
    state, reports = train(CachedDecoder(net), plan(epochs=1, lr=50.0, clip_norm=0), given)
    assert [entry.epoch for entry in reports] == [0, 1]
    assert reports[0].train_loss == {}
    assert reports[0].best
    assert not reports[1].best
    assert not state.best_weights["net.decoder.correct.3.weight"].any()


def test_an_epoch_without_images_is_refused(make_encoder):
    chosen = plan()
    with pytest.raises(ValueError, match="no training images"):
        train_epoch(start(make_encoder(), chosen, 1), chosen, Batches([]))
    with pytest.raises(ValueError, match="no validation images"):
        evaluate(make_encoder(), [])


def test_information_gain_over_a_uniform_baseline_is_the_log_likelihood_in_bits(
    make_encoder, steps
):
    def uniform(size):
        return torch.full((1, 1, *size), -math.log(size[0] * size[1]))

    model = make_encoder().eval()
    scores = evaluate(model, steps, rules="tuebingen", baseline=uniform)
    gains = []
    for (image,), targets in steps:
        with torch.no_grad():
            gain = model(image) + math.log(targets.size[0] * targets.size[1])
        fixations = targets.fixation_map()
        gains += ((gain * fixations).sum((1, 2, 3)) / fixations.sum((1, 2, 3))).tolist()
    assert scores["ig"] == pytest.approx(sum(gains) / len(gains) / math.log(2), abs=1e-5)


def test_a_source_can_score_the_model_in_its_own_way(make_encoder, steps):
    class OwnScores(Batches):
        answers = iter([{"kl": 2.0}, {"kl": 1.0}])

        def evaluate(self, model):
            return next(self.answers)

        def count_unread(self):
            return 3

    chosen = plan(epochs=2)
    state = start(make_encoder(), chosen, len(steps))
    fit(state, chosen, OwnScores(steps))
    assert [report.unread for report in state.history] == [3, 3]
    assert [report.scores for report in state.history] == [{"kl": 2.0}, {"kl": 1.0}]


def test_an_urgent_save_comes_between_steps(make_encoder, steps):
    saved, answers = [], iter([False, True, False, False, False, False, False, False])
    train_epoch(
        start(make_encoder(), plan(), len(steps)),
        plan(),
        Batches(steps),
        Calls(save=lambda state: saved.append(state.step), save_now=lambda: next(answers)),
    )
    assert saved == [2]
