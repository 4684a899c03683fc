from __future__ import annotations

import pytest
import torch

from emlnet.data.maps import resize
from emlnet.losses import LossWeights
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import CachedDecoder, EMLNet, encoder_names
from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.training.fit import train_epoch
from emlnet.training.state import Plan, start
from tests.emlnet.training.small_training import Batches


@pytest.mark.parametrize("readout", ["density", "eml"])
def test_frozen_encoders_are_bit_equal_after_the_decoder_has_trained(make_net, steps, readout):
    net = make_net(("density", "eml"), readout)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    plan = Plan(epochs=1, batch_size=2, lr=0.01, loss_weights=LossWeights(kl=1, cc=1, nss=1))
    train_epoch(start(net, plan, len(steps)), plan, Batches(steps))
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert not {key for key in changed if key.startswith("encoders.")}
    assert {key for key in changed if key.startswith("decoder.") and "running_mean" in key}
    assert {key for key in changed if key.startswith("decoder.") and key.endswith("weight")}


def test_only_the_decoder_has_gradients(make_net, image):
    net = make_net(("density",)).train()
    net(image).square().mean().backward()
    assert not any(p.requires_grad or p.grad is not None for p in net.encoders.parameters())
    assert all(p.grad is not None for p in net.decoder.parameters())


@pytest.mark.parametrize("readout", ["density", "eml"])
def test_a_decoder_on_cached_readouts_answers_what_the_net_answers(make_net, image, readout):
    net = make_net(("density", "eml"), readout)
    with torch.no_grad():
        expected, given = net(image), net.readouts(image)
        cached = CachedDecoder(net)
        assert torch.equal(cached(given, (32, 48)), expected)
    assert cached.kind == readout
    assert cached.validate_untrained == (readout == "density")


def test_a_net_without_encoders_is_refused():
    with pytest.raises(ValueError, match="at least one encoder"):
        EMLNet([], DecoderConfig())


def test_encoders_of_one_backbone_are_numbered():
    names = encoder_names(["resnet50", "tiny", "resnet50"])
    assert names == ["encoder resnet50", "encoder tiny", "encoder resnet50 (2)"]


def test_an_eml_model_decodes_at_its_own_size_whatever_the_pictures():
    config = EncoderConfig(backbone="tiny", readout="eml", size=(48, 64), weights="none")
    net = EMLNet([Encoder(config), Encoder(config)], DecoderConfig(readout="eml")).eval()
    own = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    twice = own.repeat_interleave(2, -1).repeat_interleave(2, -2)
    with torch.inference_mode():
        small, large = net(own), net(twice)
    assert large.shape == (1, 1, 96, 128)
    expected = resize(net(resize(twice, (48, 64))), (96, 128))
    assert torch.allclose(large, expected, atol=1e-6)
    assert small.shape == (1, 1, 48, 64)
