"""The weighted sum, and weights as text."""

from __future__ import annotations

import pytest
import torch

from emlnet.losses import TERMS, LossWeights, saliency_loss
from tests.emlnet.losses.loss_inputs import noise, uniform

ALL = LossWeights(kl=1, cc=1, nss=1, sim=1, mse=1, nll=1)


def test_the_total_is_the_weighted_sum_and_other_terms_are_not_computed(targets):
    weights = LossWeights(kl=2, cc=0.5, nss=0, sim=3, mse=0)
    total, values = saliency_loss(noise(), targets, weights, "eml")
    assert list(values) == ["kl", "cc", "sim"]
    torch.testing.assert_close(total, 2 * values["kl"] + 0.5 * values["cc"] + 3 * values["sim"])


@pytest.mark.parametrize("terms", ["exact", "reference"])
@pytest.mark.parametrize("kind", ["density", "eml"])
def test_the_gradient_is_finite_on_constant_maps(targets, kind, terms):
    output = uniform(kind).requires_grad_()
    saliency_loss(output, targets, ALL, kind, terms)[0].sum().backward()
    assert output.grad.isfinite().all()


def test_each_image_has_a_loss_of_its_own(targets):
    changed = noise()
    changed[1] = noise(9)[1]
    one, other = (saliency_loss(given, targets, ALL, "eml")[0] for given in (noise(), changed))
    assert one[0] == other[0]
    assert one[1] != other[1]


def test_half_precision_outputs_are_scored_in_float32(targets):
    total, _ = saliency_loss(noise().bfloat16(), targets, ALL, "eml")
    assert total.dtype == torch.float32


def test_each_row_of_the_table_has_a_weight():
    assert LossWeights() == LossWeights(**{name: term.weight for name, term in TERMS.items()})
    assert LossWeights.parse("kl=1") == LossWeights(**{**dict.fromkeys(TERMS, 0), "kl": 1})


def test_weights_are_written_and_read():
    weights = LossWeights(kl=10, cc=2.5, nss=1)
    assert str(weights).startswith("kl=10,cc=2.5,nss=1,sim=0,mse=0,nll=0")
    assert LossWeights.parse(str(weights)) == weights
    assert LossWeights.parse(" cc=1.2345678 , sim=2") == LossWeights(
        kl=0, cc=1.2345678, nss=0, sim=2
    )


@pytest.mark.parametrize(
    "text", ["", "kl", "kl=", "kl=x", "auc=1", "kl=1,,cc=1", "kl:1", "kl=1,kl=2"]
)
def test_weights_that_cannot_be_read_are_refused_with_an_example(text):
    with pytest.raises(ValueError, match="are written kl=W,cc=W,nss=W,sim=W,mse=W,nll=W"):
        LossWeights.parse(text)


@pytest.mark.parametrize("text", ["kl=-1,cc=2", "kl=0", "kl=nan", "kl=inf"])
def test_weights_below_zero_all_zero_or_not_finite_are_refused(text):
    with pytest.raises(ValueError, match="loss weights must be finite, >= 0 and not all 0"):
        LossWeights.parse(text)
