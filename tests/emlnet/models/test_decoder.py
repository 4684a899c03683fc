from __future__ import annotations

import pytest
import torch
from torch import nn

from emlnet.data.maps import log_softmax, resize, to_log_density
from emlnet.models.decoder import (
    DensityDecoder,
    EmlDecoder,
    convolve_upsampled,
)
from emlnet.models.eml_net import average_density
from emlnet.models.encoder import eml_conv

KINDS = [("density",), ("eml", "eml"), ("density", "eml"), ("eml", "density", "density")]


def log_densities(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [log_softmax(5 * torch.rand(2, 1, 20, 30, generator=generator)) for _ in range(num)]


def readouts(num):
    return [[torch.randn(2, 1, 10, 15), torch.randn(2, 1, 5, 8)] for _ in range(num)]


@pytest.mark.parametrize("kinds", KINDS)
def test_an_untrained_density_decoder_is_the_average_of_the_encoders_densities(
    make_net, image, kinds
):
    net = make_net(kinds)
    given = net.readouts(image)
    own = [to_log_density(*answer) for answer in net.encoder_maps(given, (32, 48))]
    with torch.no_grad():
        answer = net(image).exp()
    torch.testing.assert_close(answer, average_density(own).exp(), rtol=0, atol=1e-6)
    mean = torch.stack([one.exp() for one in own]).mean(0)
    torch.testing.assert_close(answer, mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("readout", ["density", "eml"])
@pytest.mark.parametrize("kinds", KINDS)
def test_either_decoder_joins_encoders_of_either_kind(make_net, image, kinds, readout):
    net = make_net(kinds, readout).train()
    answer = net(image)
    assert answer.shape == (2, 1, 32, 48)
    (answer * torch.randn(answer.shape)).sum().backward()
    assert all(p.grad is not None for p in net.decoder.parameters())
    if readout == "density":
        torch.testing.assert_close(answer.exp().sum((1, 2, 3)), torch.ones(2))
    else:
        assert 0 <= answer.min() < answer.max() <= 1


@pytest.mark.parametrize("num", [1, 2, 3])
def test_an_untrained_density_decoder_is_the_plain_average_in_training_too(num):
    decoder, own = DensityDecoder([2] * num, width=4).train(), log_densities(num)
    answer = decoder(readouts(num), own, (20, 30))
    torch.testing.assert_close(answer, average_density(own), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["gate.3.weight", "gate.3.bias", "correct.3.weight"])
def test_gate_and_correction_of_a_density_decoder_change_its_answer(name):
    torch.manual_seed(0)
    decoder = DensityDecoder([2, 2], width=4).eval()
    given = readouts(2), log_densities(2), (20, 30)
    with torch.no_grad():
        before = decoder(*given)
        parameter = decoder.get_parameter(name)
        parameter.copy_(torch.randn(parameter.shape))
        after = decoder(*given)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after.exp().sum((1, 2, 3)), torch.ones(2))


def test_one_encoder_is_corrected_without_a_gate():
    torch.manual_seed(0)
    decoder = DensityDecoder([2], width=4).eval()
    given, (own,) = readouts(1), log_densities(1)
    nn.init.normal_(decoder.gate[-1].weight)
    with torch.no_grad():
        torch.testing.assert_close(decoder(given, [own], (20, 30)), own, rtol=0, atol=1e-5)
        nn.init.normal_(decoder.correct[-1].weight)
        assert (decoder(given, [own], (20, 30)) - own).abs().max() > 1e-3


def test_the_gate_learns_which_encoder_is_better_where():
    """One encoder is right on the left half of the picture, the other on the right half."""
    torch.manual_seed(0)
    left = (torch.arange(30) < 15).expand(8, 1, 20, 30)
    truth = torch.rand(8, 1, 20, 30) ** 4
    q = truth / truth.sum((2, 3), keepdim=True)
    wrong = torch.rand(8, 1, 20, 30) ** 4
    own = [torch.where(good, truth, wrong).add(1e-3).log() for good in (left, ~left)]
    own = [log_softmax(each) for each in own]
    given = [[good[..., ::2, ::2].float()] for good in (left, ~left)]

    def divergence(log_p):
        return (q * ((q + 1e-12).log() - log_p)).sum() / len(q)

    decoder = DensityDecoder([1, 1], width=8).train()
    optimizer = torch.optim.AdamW(decoder.gate.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        divergence(decoder(given, own, (20, 30))).backward()
        optimizer.step()
    with torch.no_grad():
        learned = divergence(decoder.eval()(given, own, (20, 30)))
        assert learned < 0.5 * divergence(average_density(own))


def test_an_eml_decoder_refuses_readouts_of_another_number():
    with pytest.raises(ValueError, match="shorter"):
        EmlDecoder([2, 2])(readouts(1), [], (20, 30))


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ([(12, 16), (3, 4), (12, 16), (6, 8)], (24, 32)),
        ([(6, 8), (3, 4)], (24, 40)),
        ([(6, 8), (24, 32)], (24, 32)),
        ([(7, 9), (4, 5)], (24, 32)),
    ],
    ids=["halves", "three, four and five times", "not enlarged", "no multiples"],
)
def test_maps_convolved_at_their_own_sizes_are_those_enlarged_first(sizes, size):
    torch.manual_seed(0)
    maps = [torch.randn(2, 1, *shape, dtype=torch.float64, requires_grad=True) for shape in sizes]
    conv = eml_conv(len(maps)).double()
    enlarged = torch.cat([resize(given, size, "nearest") for given in maps], 1)
    weight = torch.randn(2, 1, *size, dtype=torch.float64)
    answers = [convolve_upsampled(maps, conv, size), conv(enlarged)]
    torch.testing.assert_close(*answers)
    inputs = [*maps, *conv.parameters()]
    gradients = [torch.autograd.grad((a * weight).sum(), inputs) for a in answers]
    torch.testing.assert_close(*gradients)
