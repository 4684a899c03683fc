from __future__ import annotations

import pytest
import torch

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


def test_every_correction_of_a_density_decoder_changes_its_answer():
    for name in ("weight", "blur", "centre_bias", "correct.3.weight"):
        torch.manual_seed(0)
        decoder = DensityDecoder([2, 2], width=4).eval()
        given = readouts(2), log_densities(2), (20, 30)
        with torch.no_grad():
            before = decoder(*given)
            parameter = decoder.get_parameter(name)
            parameter.add_(torch.rand(parameter.shape))
            after = decoder(*given)
        assert (after - before).abs().max() > 1e-3, name
        torch.testing.assert_close(after.exp().sum((1, 2, 3)), torch.ones(2))


def test_the_gradient_of_an_untrained_density_decoder_is_not_zero():
    torch.manual_seed(0)
    decoder = DensityDecoder([2, 2], width=4).train()
    answer = decoder(readouts(2), log_densities(2), (20, 30))
    (answer * torch.rand(answer.shape)).sum().backward()
    for name in ("weight", "blur", "centre_bias", "correct.3.weight"):
        assert decoder.get_parameter(name).grad.abs().sum() > 0, name


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
