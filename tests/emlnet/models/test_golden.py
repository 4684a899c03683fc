"""What the authors' code answers, reproduced."""

from __future__ import annotations

import pytest
import torch

from emlnet.data.targets import Targets
from emlnet.losses import LossWeights, saliency_loss

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SIZE = (96, 128)


@pytest.fixture(scope="module")
def readouts(authors_net, golden):
    return authors_net.readouts(golden["image"])


@pytest.fixture(scope="module")
def targets(golden):
    fixated = golden["fixation"].flatten()
    index = fixated.nonzero()[:, 0]
    density = golden["density"]
    return Targets(
        density=density / density.sum((2, 3), keepdim=True),
        index=index,
        counts=fixated[index],
        weight=torch.ones(len(density)),
    )


@pytest.mark.parametrize("encoder", [0, 1])
def test_the_readouts_are_the_authors(readouts, golden, encoder):
    assert len(readouts[encoder]) == 5
    for tap, readout in enumerate(readouts[encoder]):
        torch.testing.assert_close(readout, golden[f"encoder{encoder}_readout{tap}"], **CLOSE)


@pytest.mark.parametrize("encoder", [0, 1])
def test_the_encoders_own_map_is_the_authors(authors_net, readouts, golden, encoder):
    maps = [given for given, kind in authors_net.encoder_maps(readouts, SIZE) if kind == "eml"]
    torch.testing.assert_close(maps[encoder], golden[f"encoder{encoder}_map"], **CLOSE)


def test_the_net_called_on_pictures_answers_the_decoders_map(authors_net, golden):
    with torch.no_grad():
        torch.testing.assert_close(authors_net(golden["image"]), golden["decoder_map"], **CLOSE)


def test_the_decoder_of_two_resnets_trains_213_parameters(authors_net):
    trainable = [p.numel() for p in authors_net.parameters() if p.requires_grad]
    assert sum(trainable) == 213


def test_the_reference_loss_is_the_authors_term_by_term(golden, targets):
    weights = LossWeights(kl=1, cc=1, nss=1)
    _, terms = saliency_loss(golden["prediction"], targets, weights, "eml", "reference")
    assert set(terms) == {"kl", "cc", "nss"}
    for name, values in terms.items():
        torch.testing.assert_close(values.double(), golden[f"loss_{name}"], **CLOSE)


def test_the_reference_total_and_its_gradient_are_the_authors(golden, targets):
    prediction = golden["prediction"].clone().requires_grad_()
    weights = LossWeights(kl=1, cc=1, nss=1)
    total = saliency_loss(prediction, targets, weights, "eml", "reference")[0].mean()
    total.backward()
    torch.testing.assert_close(total.detach().double(), golden["loss_total"], **CLOSE)
    scale = golden["loss_gradient"].abs().max()
    torch.testing.assert_close(
        prediction.grad / scale, golden["loss_gradient"] / scale, rtol=1e-4, atol=1e-6
    )
