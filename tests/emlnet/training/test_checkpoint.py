"""Resuming equals never having stopped, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from emlnet.losses import LossWeights
from emlnet.training import checkpoint
from emlnet.training.fit import BatchSource, fit
from emlnet.training.state import Plan, start
from tests.emlnet.training.small_training import Calls

EPOCHS, STEPS, EVERY = 3, 5, 2


class Drawn(BatchSource):
    """Mirrors each sample by chance, drawn when it is read, as dropout is."""

    steps_per_epoch = STEPS

    def __init__(self, samples, make_step, val):
        self.samples, self.make_step, self.val_batches = samples, make_step, val

    def train(self, epoch, start_step):
        for number in range(start_step, STEPS):
            chosen = self.samples[2 * number : 2 * number + 2]
            yield self.make_step(chosen, flip=(torch.rand(2) < 0.5).tolist())

    def val(self):
        return self.val_batches


@pytest.fixture
def make_model(make_encoder, make_net):
    def make(what, seed):
        if what == "decoder":
            net = make_net(("density", "eml"), seed=seed)
            net.decoder.correct.append(nn.Dropout(0.3))
            return net
        encoder = make_encoder(what, seed)
        for readout in encoder.readout:
            readout.append(nn.Dropout(0.3))
        return encoder

    return make


@pytest.fixture
def run(make_photographs, make_step, make_model, tmp_path):
    """Trains to the end and keeps every checkpoint, from a checkpoint if one is named."""
    samples, val = make_photographs(2 * STEPS), [make_step(make_photographs(2, seed=9))]

    def run(what, plan, resume=None):
        torch.manual_seed(1 if resume is None else 99)
        # A resumed process builds a model of other weights: all of them must come from the file.
        state = start(
            make_model(what, 0 if resume is None or what == "decoder" else 7), plan, STEPS
        )
        if resume:
            checkpoint.load(state, tmp_path / resume)

        def save(state):
            name = f"{state.epoch}-{state.step}"
            if resume is None:
                (tmp_path / name).mkdir()
                checkpoint.save(state, tmp_path / name)

        hooks = Calls(report=lambda entry, state: save(state), save=save)
        return fit(state, plan, Drawn(samples, make_step, val), hooks)

    return run


def plan(**changes):
    weights = LossWeights(kl=1, cc=1, nss=1)
    options = {"epochs": EPOCHS, "batch_size": 2, "lr": 0.01, "checkpoint_every": EVERY, **changes}
    return Plan(loss_weights=weights, **options)


def assert_equal(one, other):
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[key]), key
    assert one.best_weights.keys() == other.best_weights.keys()
    for key, value in one.best_weights.items():
        assert torch.equal(value, other.best_weights[key]), key
    for name in ("epoch", "train_loss", "scores", "best"):
        assert [getattr(e, name) for e in one.history] == [getattr(e, name) for e in other.history]
    assert (one.epoch, one.step) == (other.epoch, other.step)
    assert one.schedule.get_last_lr() == other.schedule.get_last_lr()


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("density", {}),
        ("density", {"ema": 0.9}),
        ("eml", {"optimizer": "sgd", "schedule": "step", "step_epochs": 2}),
        ("decoder", {}),
    ],
)
def test_a_resumed_run_is_bit_equal_to_one_that_never_stopped(run, tmp_path, what, changes):
    whole = run(what, plan(**changes))
    points = sorted(path.name for path in tmp_path.iterdir())
    assert points == ["0-2", "0-4", "1-0", "1-2", "1-4", "2-0", "2-2", "2-4", "3-0"]
    for point in ("0-2", "1-0", "1-4", "2-2"):
        assert_equal(run(what, plan(**changes), resume=point), whole)


def test_a_finished_run_resumes_to_itself(run):
    whole = run("density", plan())
    assert_equal(run("density", plan(), resume="3-0"), whole)


def test_the_chance_of_dropout_and_flips_matters_here(run, tmp_path, monkeypatch):
    # Else the tests above would hold without any random state.
    whole = run("density", plan())
    monkeypatch.setattr(checkpoint, "set_random_state", lambda state: None)
    again = run("density", plan(), resume="0-2")
    assert again.history[-1].train_loss != whole.history[-1].train_loss


@pytest.fixture
def saved(make_encoder, tmp_path):
    state = start(make_encoder(), plan(), STEPS)
    checkpoint.save(state, tmp_path)
    return tmp_path


def test_a_checkpoint_is_written_whole_or_not_at_all(saved, make_encoder, monkeypatch):
    def fail(content, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(start(make_encoder(seed=1), plan(), STEPS), saved)
    checkpoint.load(start(make_encoder(seed=2), plan(), STEPS), saved)


def test_a_folder_without_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint at .*state\.pt"):
        checkpoint.read(tmp_path)


def test_a_broken_checkpoint_is_named(saved):
    path = saved / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"state\.pt is not a whole checkpoint"):
        checkpoint.read(saved)


def test_a_checkpoint_of_another_model_is_refused(saved, make_encoder):
    other = start(make_encoder("eml"), plan(), STEPS)
    with pytest.raises(ValueError, match=r"state\.pt: missing: .*unexpected: "):
        checkpoint.load(other, saved)


def test_a_rank_that_had_no_random_state_keeps_its_own(saved, make_encoder):
    torch.manual_seed(123)
    expected = torch.rand(1)
    state = start(make_encoder(), plan(), STEPS)
    torch.manual_seed(123)
    checkpoint.load(state, saved, rank=1)
    assert torch.equal(torch.rand(1), expected)


def test_a_decoders_checkpoint_holds_no_encoder(make_net, tmp_path):
    checkpoint.save(start(make_net(("density", "eml")), plan(), STEPS), tmp_path)
    assert all(key.startswith("decoder.") for key in checkpoint.read(tmp_path)["model"])
