from __future__ import annotations

import math

import pytest
import torch

from emlnet.data.maps import log_softmax, to_density
from emlnet.data.samples import Targets
from emlnet.losses.weighted import LossWeights, map_terms, saliency_loss
from emlnet.metrics import saliency_metrics

SIZE = (24, 32)
ALL = LossWeights(kl=1, cc=1, nss=1, sim=1, mse=1)


def noise(seed=0, size=SIZE, num=2):
    return torch.rand(num, 1, *size, generator=torch.Generator().manual_seed(seed))


def make_targets(density, pixels=((0, 5), (0, 90), (1, 33))):
    """Targets of density maps and fixated (image, position)."""
    size = density.shape[-2] * density.shape[-1]
    return Targets(
        density=density / density.sum((2, 3), keepdim=True),
        index=torch.tensor([image * size + position for image, position in pixels]),
        counts=torch.ones(len(pixels)),
        weight=torch.ones(len(density)),
    )


def loss_terms(output, targets, kind="density", terms="exact", weights=ALL):
    return saliency_loss(output, targets, weights, kind, terms)[1]


def uniform(kind, size=SIZE, value=0.5):
    if kind == "eml":
        return torch.full((2, 1, *size), value)
    return log_softmax(torch.zeros(2, 1, *size))


@pytest.fixture
def targets():
    return make_targets(noise(1))


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_a_map_against_itself_has_no_loss_but_nss(targets, kind):
    q = targets.density
    output = q.log() if kind == "density" else q / q.amax((2, 3), keepdim=True)
    values = loss_terms(output, targets, kind)
    for name in ("kl", "cc", "sim", "mse"):
        torch.testing.assert_close(values[name], torch.zeros(2), rtol=0, atol=2e-6)


def test_kl_of_a_uniform_map_is_the_densitys_missing_entropy(targets):
    q = targets.density.double()
    expected = (q * q.log()).sum((1, 2, 3)) + math.log(SIZE[0] * SIZE[1])
    torch.testing.assert_close(
        loss_terms(uniform("density"), targets)["kl"].double(), expected, rtol=1e-4, atol=1e-6
    )


def test_kl_counts_pixels_without_density_as_nothing():
    density = torch.zeros(1, 1, 4, 4)
    density[..., 1, 2] = 1
    targets = make_targets(density, pixels=[(0, 6)])
    output = log_softmax(noise(num=1, size=(4, 4)))
    kl = loss_terms(output, targets, weights=LossWeights(kl=1, cc=0, nss=0))["kl"]
    torch.testing.assert_close(kl, -output[:, 0, 1, 2])


def test_the_reference_kl_of_a_uniform_map_with_itself_is_off_by_the_authors_guard():
    size = (480, 640)
    targets = make_targets(torch.ones(2, 1, *size))
    kl = loss_terms(uniform("eml", size), targets, "eml", "reference")["kl"]
    # 1e-6 is 30 % of a uniform pixel.
    expected = math.log(1 / (1 + 480 * 640 * 1e-6) + 1e-6)
    assert expected == pytest.approx(-0.268, abs=1e-3)
    assert kl.tolist() == pytest.approx([expected] * 2, abs=1e-4)
    assert loss_terms(uniform("eml", size), targets, "eml")["kl"].tolist() == pytest.approx(
        [0, 0], abs=1e-4
    )


def test_cc_of_an_affine_copy_is_one_and_of_its_negative_minus_one(targets):
    q = targets.density
    assert loss_terms(3 * q + 0.1, targets, "eml")["cc"].tolist() == pytest.approx([0, 0], abs=1e-5)
    opposite = q.amax((2, 3), keepdim=True) - q
    assert loss_terms(opposite, targets, "eml")["cc"].tolist() == pytest.approx([2, 2], abs=1e-5)


@pytest.mark.parametrize("kind", ["density", "eml"])
@pytest.mark.parametrize("size", [(24, 32), (37, 51), (480, 640)])
def test_a_constant_map_has_no_nss_and_no_cc(kind, size):
    targets = make_targets(noise(1, size))
    values = loss_terms(uniform(kind, size), targets, kind)
    torch.testing.assert_close(values["nss"], torch.zeros(2), rtol=0, atol=1e-3)
    torch.testing.assert_close(values["cc"], torch.ones(2), rtol=0, atol=1e-3)


def test_nss_of_a_one_hot_map_at_its_only_fixation_is_as_written():
    output = torch.zeros(1, 1, *SIZE)
    output.view(-1)[77] = 1
    targets = make_targets(noise(1, num=1), pixels=[(0, 77)])
    nss = loss_terms(output, targets, "eml")["nss"]
    assert nss.item() == pytest.approx(-math.sqrt(SIZE[0] * SIZE[1] - 1), rel=1e-5)


def test_an_image_without_fixations_has_an_nss_term_of_zero():
    targets = make_targets(noise(1), pixels=[(1, 3)])
    for terms in ("exact", "reference"):
        nss = loss_terms(noise(), targets, "eml", terms)["nss"]
        assert nss[0] == 0
        assert nss[1] != 0


def test_sim_is_between_zero_and_one(targets):
    values = loss_terms(noise(4), targets, "eml")["sim"]
    assert ((values > 0) & (values < 1)).all()
    apart = torch.zeros(2, 1, *SIZE)
    apart[..., 0, 0] = 1
    elsewhere = torch.zeros(2, 1, *SIZE)
    elsewhere[..., 5, 5] = 1
    assert loss_terms(apart, make_targets(elsewhere), "eml")["sim"].tolist() == [1, 1]


def test_mse_compares_maps_scaled_to_a_maximum_of_one():
    density = torch.zeros(1, 1, 2, 2)
    density[..., 0, 0], density[..., 0, 1] = 4, 2
    targets = make_targets(density, pixels=[(0, 0)])
    weights = LossWeights(kl=0, cc=0, nss=0, mse=1)
    output = torch.tensor([0.5, 0.5, 0.0, 1.0]).view(1, 1, 2, 2)
    assert loss_terms(output, targets, "eml", weights=weights)["mse"].item() == pytest.approx(
        (0.25 + 0 + 0 + 1) / 4
    )
    log_density = log_softmax(
        torch.tensor([1.0, 0.5, -9.0, -9.0]).log1p().nan_to_num(-30).view(1, 1, 2, 2)
    )
    p = log_density.exp()
    expected = (p / p.max() - density / 4).square().mean().item()
    given = loss_terms(log_density, targets, "density", weights=weights)["mse"].item()
    assert given == pytest.approx(expected, rel=1e-5)


def test_exact_terms_are_the_metrics(targets):
    output = log_softmax(4 * noise(2))
    p = to_density(output, "density")
    values = loss_terms(output, targets)
    fixations = targets.fixation_map()
    for name, expected in {
        "kl": saliency_metrics.kl(p, targets.density),
        "cc": 1 - saliency_metrics.cc(p, targets.density),
        "nss": -saliency_metrics.nss(p, fixations),
        "sim": 1 - saliency_metrics.sim(p, targets.density),
    }.items():
        torch.testing.assert_close(values[name].double(), expected, rtol=1e-3, atol=1e-5)


def test_reference_nss_differs_from_the_exact_one_by_what_the_fixations_give(targets):
    one, other = (noise(seed) for seed in (2, 3))
    offsets = []
    for output in (one, other):
        exact = loss_terms(output, targets, "eml")["nss"]
        reference = loss_terms(output, targets, "eml", "reference")["nss"]
        num = SIZE[0] * SIZE[1]
        offsets.append(reference - exact * math.sqrt((num - 1) / num))
    torch.testing.assert_close(offsets[0], offsets[1])


def test_the_total_is_the_weighted_sum(targets):
    weights = LossWeights(kl=2, cc=0.5, nss=0, sim=3, mse=0)
    total, values = saliency_loss(noise(), targets, weights, "eml")
    assert total.shape == (2,)
    torch.testing.assert_close(total, 2 * values["kl"] + 0.5 * values["cc"] + 3 * values["sim"])


@pytest.mark.parametrize("terms", ["exact", "reference"])
@pytest.mark.parametrize("name", ["kl", "cc", "nss", "sim", "mse"])
def test_a_term_without_weight_is_not_computed(targets, name, terms):
    one = {"kl": 0, "cc": 0, "nss": 0, name: 2}
    total, values = saliency_loss(noise(), targets, LossWeights(**one), "eml", terms)
    assert values.keys() == {name}
    torch.testing.assert_close(total, 2 * values[name])


@pytest.mark.parametrize("terms", ["exact", "reference"])
@pytest.mark.parametrize("kind", ["density", "eml"])
def test_the_gradient_is_finite_on_constant_maps(targets, kind, terms):
    output = uniform(kind).requires_grad_()
    saliency_loss(output, targets, ALL, kind, terms)[0].sum().backward()
    assert output.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_a_constant_density_map_gives_cc_no_gradient(kind):
    size = (480, 640)
    output = noise(size=size) if kind == "eml" else log_softmax(noise(size=size))
    output.requires_grad_()
    total, values = saliency_loss(
        output, make_targets(torch.ones(2, 1, *size)), LossWeights(kl=0, cc=1, nss=0), kind
    )
    total.sum().backward()
    assert values["cc"].tolist() == [1, 1]
    assert output.grad.abs().max() == 0


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_the_gradient_leads_downhill(targets, kind):
    start = (noise() if kind == "eml" else log_softmax(noise())).requires_grad_()
    before = saliency_loss(start, targets, ALL, kind)[0].sum()
    before.backward()
    moved = start.detach() - 1e-3 * start.grad / start.grad.norm()
    assert saliency_loss(moved, targets, ALL, kind)[0].sum() < before


def test_each_image_has_a_loss_of_its_own(targets):
    changed = noise()
    changed[1] = noise(9)[1]
    one, other = (saliency_loss(given, targets, ALL, "eml")[0] for given in (noise(), changed))
    assert one[0] == other[0]
    assert one[1] != other[1]


def test_half_precision_outputs_are_scored_in_float32(targets):
    total, _ = saliency_loss(noise().bfloat16(), targets, ALL, "eml")
    assert total.dtype == torch.float32


def test_weights_are_written_and_read():
    weights = LossWeights(kl=10, cc=2.5, nss=1)
    assert str(weights) == "kl=10,cc=2.5,nss=1,sim=0,mse=0"
    assert LossWeights.parse(str(weights)) == weights


def test_terms_that_are_not_named_weigh_nothing():
    assert LossWeights.parse(" cc=1 , sim=2") == LossWeights(kl=0, cc=1, nss=0, sim=2)


def test_weights_of_seven_digits_survive_being_written():
    weights = LossWeights(kl=1.2345678, cc=0, nss=0)
    assert LossWeights.parse(str(weights)) == weights


@pytest.mark.parametrize("text", ["", "kl", "kl=", "kl=x", "auc=1", "kl=1,,cc=1", "kl:1"])
def test_weights_that_cannot_be_read_are_refused_with_an_example(text):
    with pytest.raises(ValueError, match="are written kl=10,cc=2,nss=1"):
        LossWeights.parse(text)


@pytest.mark.parametrize("text", ["kl=-1,cc=2", "kl=0", "kl=nan", "kl=inf"])
def test_weights_below_zero_all_zero_or_not_finite_are_refused(text):
    with pytest.raises(ValueError, match="loss weights are >= 0 and not all 0"):
        LossWeights.parse(text)


def test_a_term_named_twice_is_refused():
    with pytest.raises(ValueError, match="loss weights"):
        LossWeights.parse("kl=1,kl=2")


@pytest.mark.parametrize("terms", ["exact", "reference"])
@pytest.mark.parametrize("kind", ["density", "eml"])
@pytest.mark.parametrize("name", ["kl", "cc", "nss", "sim", "mse"])
def test_the_gradient_of_each_term_is_that_of_finite_differences(name, kind, terms):
    random = torch.Generator().manual_seed(3)
    density = torch.rand(2, 1, 5, 7, generator=random, dtype=torch.float64)
    density[..., :2, :] = 0
    targets = make_targets(density, pixels=[(0, 9), (0, 30), (1, 4)])
    names = frozenset([name])

    def term(given):
        output = log_softmax(given) if kind == "density" else given.sigmoid()
        return map_terms(output, targets, names, kind, terms)[name]

    logits = torch.randn(2, 1, 5, 7, generator=random, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(term, logits)


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_images_taken_at_once_or_one_by_one_have_the_same_loss(monkeypatch, targets, kind):
    given = noise() if kind == "eml" else log_softmax(noise())
    answers = []
    for pixels in (1, 10**6):
        monkeypatch.setattr("emlnet.losses.fused.PIXELS_AT_ONCE", pixels)
        output = given.clone().requires_grad_()
        loss = saliency_loss(output, targets, ALL, kind)[0]
        loss.sum().backward()
        answers.append((loss.detach(), output.grad))
    torch.testing.assert_close(answers[0], answers[1])
