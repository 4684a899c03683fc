"""Closed forms of the loss terms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from emlnet.data.maps import log_softmax, to_density
from emlnet.losses import TERMS
from emlnet.losses.terms import kl_reference, nss_reference
from emlnet.metrics import saliency_metrics
from tests.emlnet.losses.loss_inputs import SIZE, make_targets, noise, uniform

NUM_PIXELS = SIZE[0] * SIZE[1]


def compute(name, output, targets, kind="density"):
    return TERMS[name].function(output, targets, kind)


@pytest.mark.parametrize("kind", ["density", "eml"])
@pytest.mark.parametrize("name", ["kl", "cc", "sim", "mse"])
def test_a_map_against_itself_has_no_loss(targets, kind, name):
    q = targets.density
    output = q.log() if kind == "density" else q / q.amax((2, 3), keepdim=True)
    values = compute(name, output, targets, kind)
    torch.testing.assert_close(values, torch.zeros(2), rtol=0, atol=2e-6)


def test_kl_of_a_uniform_map_is_the_densitys_missing_entropy(targets):
    q = targets.density.double()
    expected = (q * q.log()).sum((1, 2, 3)) + math.log(NUM_PIXELS)
    values = compute("kl", uniform("density"), targets).double()
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-6)


def test_kl_counts_pixels_without_density_as_nothing():
    density = torch.zeros(1, 1, 4, 4)
    density[..., 1, 2] = 1
    output = log_softmax(noise(num=1, size=(4, 4)))
    values = compute("kl", output, make_targets(density, pixels=[(0, 6)]))
    torch.testing.assert_close(values, -output[:, 0, 1, 2])


def test_the_reference_kl_of_a_uniform_map_with_itself_is_off_by_the_authors_guard():
    size = (480, 640)
    targets, output = make_targets(torch.ones(2, 1, *size)), uniform("eml", size)
    # 1e-6 is 30 % of a uniform pixel.
    expected = math.log(1 / (1 + 480 * 640 * 1e-6) + 1e-6)
    assert expected == pytest.approx(-0.268, abs=1e-3)
    assert kl_reference(output, targets, "eml").tolist() == pytest.approx([expected] * 2, abs=1e-4)
    assert compute("kl", output, targets, "eml").tolist() == pytest.approx([0, 0], abs=1e-4)


def test_cc_of_an_affine_copy_is_one_and_of_its_negative_minus_one(targets):
    q = targets.density
    opposite = q.amax((2, 3), keepdim=True) - q
    assert compute("cc", 3 * q + 0.1, targets, "eml").tolist() == pytest.approx([0, 0], abs=1e-5)
    assert compute("cc", opposite, targets, "eml").tolist() == pytest.approx([2, 2], abs=1e-5)


@pytest.mark.parametrize("kind", ["density", "eml"])
@pytest.mark.parametrize("size", [(24, 32), (37, 51), (480, 640)])
def test_a_constant_map_has_no_nss_and_no_cc(kind, size):
    targets, output = make_targets(noise(1, size)), uniform(kind, size)
    assert compute("nss", output, targets, kind).tolist() == [0, 0]
    assert compute("cc", output, targets, kind).tolist() == [1, 1]


def test_nss_of_a_one_hot_map_at_its_only_fixation_is_as_written():
    output = torch.zeros(1, 1, *SIZE)
    output.view(-1)[77] = 1
    values = compute("nss", output, make_targets(noise(1, num=1), pixels=[(0, 77)]), "eml")
    assert values.item() == pytest.approx(-math.sqrt(NUM_PIXELS - 1), rel=1e-5)


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_nll_is_the_mean_over_fixations_of_minus_log_p(targets, kind):
    output = noise() if kind == "eml" else log_softmax(noise())
    log_p = to_density(output, kind).log().flatten(1)
    counted = replace(targets, counts=torch.tensor([3.0, 1.0, 2.0]))
    expected = torch.stack([-(3 * log_p[0, 5] + log_p[0, 90]) / 4, -log_p[1, 33]])
    torch.testing.assert_close(compute("nll", output, counted, kind), expected)
    everywhere = torch.full((2,), math.log(NUM_PIXELS))
    torch.testing.assert_close(compute("nll", uniform(kind), counted, kind), everywhere)


def test_an_image_without_fixations_has_terms_of_zero():
    targets = make_targets(noise(1), pixels=[(1, 3)])
    for function in (TERMS["nss"].function, TERMS["nll"].function, nss_reference):
        values = function(noise(), targets, "eml")
        assert values[0] == 0
        assert values[1] != 0


def test_mse_compares_maps_scaled_to_a_maximum_of_one():
    density = torch.tensor([4.0, 2.0, 0.0, 0.0]).view(1, 1, 2, 2)
    targets = make_targets(density, pixels=[(0, 0)])
    output = torch.tensor([0.5, 0.5, 0.0, 1.0]).view(1, 1, 2, 2)
    assert compute("mse", output, targets, "eml").item() == pytest.approx((0.25 + 1) / 4)
    p = torch.tensor([0.4, 0.3, 0.2, 0.1]).view(1, 1, 2, 2)
    expected = (p / 0.4 - density / 4).square().mean().item()
    assert compute("mse", p.log(), targets).item() == pytest.approx(expected, rel=1e-5)


def test_exact_terms_are_the_metrics(targets):
    output = log_softmax(4 * noise(2))
    p = to_density(output, "density")
    scores = saliency_metrics.score(p, targets.fixation_map(), targets.density)
    for name, expected in {
        "kl": scores["kl"],
        "cc": 1 - scores["cc"],
        "nss": -scores["nss"],
        "sim": 1 - scores["sim"],
    }.items():
        values = compute(name, output, targets).double()
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-5)
