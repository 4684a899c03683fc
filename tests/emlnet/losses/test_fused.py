"""The fused terms are the plain ones, values and gradients."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from emlnet.data.maps import log_softmax
from emlnet.losses import TERMS, LossWeights, saliency_loss
from emlnet.losses.fused import FUSED
from tests.emlnet.losses.loss_inputs import make_targets, noise

CASES = {
    "noise": (noise(0), noise(1)),
    "zeros in both maps": ((noise(2) - 0.5).relu(), (noise(3) - 0.5).relu()),
    "a constant map": (torch.full_like(noise(), 0.5), noise(1)),
    "a constant density": (noise(0), torch.ones_like(noise())),
}


def loss(output, targets, name, kind, terms="exact"):
    """The loss of one term."""
    weights = LossWeights(**{**dict.fromkeys(TERMS, 0), name: 1})
    total, values = saliency_loss(output, targets, weights, kind, terms)
    assert torch.equal(total, values[name])
    return total


def value_and_gradient(output, function):
    output = output.clone().requires_grad_()
    values = function(output)
    (values * torch.tensor([1.0, 0.3]).to(values)).sum().backward()
    return values.detach(), output.grad


@pytest.mark.parametrize("pixels", [((0, 5), (0, 90), (1, 33)), ((1, 3),)])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("terms", ["exact", "reference"])
@pytest.mark.parametrize("kind", ["density", "eml"])
@pytest.mark.parametrize("name", TERMS)
def test_a_term_and_its_gradient_are_those_of_the_plain_function(name, kind, terms, case, pixels):
    maps, density = (given.double() for given in CASES[case])
    targets = make_targets(density, pixels)
    output = log_softmax(4 * maps) if kind == "density" else maps
    row = TERMS[name]
    plain = row.reference if terms == "reference" and row.reference else row.function
    expected = value_and_gradient(output, lambda given: plain(given, targets, kind))
    with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
        found = value_and_gradient(output, lambda given: loss(given, targets, name, kind, terms))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_gradient_of_a_weighted_sum_is_that_of_the_plain_functions(targets):
    weights = {"kl": 2.0, "cc": 0.5, "nss": 1.5, "sim": 3.0, "mse": 0.7}
    expected = value_and_gradient(
        noise(),
        lambda given: sum(w * TERMS[n].function(given, targets, "eml") for n, w in weights.items()),
    )
    found = value_and_gradient(
        noise(), lambda given: saliency_loss(given, targets, LossWeights(**weights), "eml")[0]
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_a_constant_density_map_gives_cc_no_gradient(kind):
    size = (480, 640)
    output = noise(size=size) if kind == "eml" else log_softmax(noise(size=size))
    targets = make_targets(torch.ones(2, 1, *size))
    values, gradient = value_and_gradient(output, lambda given: loss(given, targets, "cc", kind))
    assert values.tolist() == [1, 1]
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("kind", ["density", "eml"])
def test_images_computed_at_once_or_one_by_one_are_the_same(monkeypatch, targets, kind, name):
    output = noise() if kind == "eml" else log_softmax(noise())
    answers = []
    for pixels in (1, 10**6):
        monkeypatch.setattr("emlnet.losses.fused.CACHED_PIXELS", pixels)
        answers.append(value_and_gradient(output, lambda given: loss(given, targets, name, kind)))
    torch.testing.assert_close(answers[0], answers[1])
