"""Frozen stages, BatchNorm in eval mode, activations computed again."""

from __future__ import annotations

import pytest
import torch

from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.models.finetune import Finetune, prepare

SIZE = (64, 96)


def encoder(backbone="resnet18", **finetune):
    torch.manual_seed(0)
    config = EncoderConfig(backbone=backbone, weights="none", size=SIZE, readout_width=4)
    return prepare(Encoder(config), Finetune(**finetune))


def step(model):
    """One step of plain SGD on two pictures of noise; the state before it."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    torch.manual_seed(1)
    output = model(torch.rand(2, 3, *SIZE))
    (output * torch.randn(output.shape)).sum().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    torch.optim.SGD(trained, lr=0.01).step()
    return before


def changed(model, before):
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


def test_frozen_stages_stay_bit_for_bit_and_the_rest_moves():
    model = encoder(freeze=2)
    moved = changed(model, step(model))
    frozen = ("backbone.conv1.", "backbone.bn1.", "backbone.layer1.")
    assert not [key for key in moved if key.startswith(frozen)]
    for part in ("backbone.layer2.0.conv1.weight", "backbone.layer2.0.bn1.running_mean"):
        assert part in moved
    assert "readout.0.0.weight" in moved


def test_more_frozen_taps_than_there_are_is_refused():
    with pytest.raises(ValueError, match="resnet18 has 5 tapped layers; --freeze must be 0 to 5"):
        encoder(freeze=6)


def test_batchnorm_in_eval_mode_keeps_its_statistics_and_learns_its_weights():
    model = encoder(eval_batchnorm=True)
    moved = changed(model, step(model))
    assert not [key for key in moved if key.startswith("backbone.") and "running" in key]
    assert "backbone.bn1.weight" in moved
    assert "readout.0.1.running_mean" in moved


@pytest.mark.parametrize("finetune", [{"eval_batchnorm": True}, {"freeze": 2}])
def test_batchnorm_that_is_put_in_another_class_stays_as_it_is(finetune):
    model = encoder(**finetune)
    fixed = set(model.eval_modules)
    assert fixed
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model).train()
    for name, module in model.backbone.named_modules():
        if isinstance(module, torch.nn.SyncBatchNorm):
            assert module.training == (name not in fixed), name


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet18",
        "tiny",
        pytest.param("nasnetalarge", marks=pytest.mark.slow),
        pytest.param("densenet161", marks=pytest.mark.slow),
    ],
)
def test_computing_again_gives_the_same_gradients_and_statistics(backbone):
    kept, again = encoder(backbone), encoder(backbone, recompute=True)
    before = step(kept)
    assert changed(again, before) == set()
    step(again)
    for key, value in kept.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_timms_batchnorm_would_move_twice_so_computing_again_wants_it_still():
    with pytest.raises(ValueError, match="twice a step; pass --eval-batchnorm"):
        encoder("efficientnet_lite0", recompute=True)
    model = encoder("efficientnet_lite0", recompute=True, eval_batchnorm=True)
    step(model)
    assert next(model.backbone.parameters()).grad.abs().sum() > 0


def test_a_network_that_has_no_way_to_compute_again_says_so(monkeypatch):
    model = Encoder(EncoderConfig(backbone="tiny", weights="none", size=SIZE))
    model.backbone = torch.nn.Conv2d(3, 8, 3)
    with pytest.raises(ValueError, match="leave --recompute out"):
        prepare(model, Finetune(recompute=True))
