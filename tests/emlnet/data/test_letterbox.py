"""Pictures of other proportions: what is predicted is what was trained."""

from __future__ import annotations

import pytest
import torch

from emlnet.data.batches import prepare_image, prepare_targets
from emlnet.data.framing import crop
from emlnet.inference.predictor import predict_output
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig
from tests.emlnet.data.small_samples import decoded, joined

CANVAS = (32, 48)
TALL = (32, 20)
"""Of a picture that fills the canvas from top to bottom: nothing is resized."""


@pytest.fixture
def encoders(make_encoder):
    return [make_encoder("density", seed=seed, letterbox=True) for seed in (1, 2)]


def tall(size=TALL):
    return decoded([(3, 4)], size, seed=4)


@torch.no_grad()
def trained_map(model):
    """What losses see of the picture in training: the output in its frame, as a density."""
    batch = joined(tall(), canvas=CANVAS)
    (frame,) = prepare_targets(batch).frames
    assert frame == (0, 14, *TALL)
    part = crop(model(prepare_image(batch)), frame)
    return part - part.logsumexp((2, 3), keepdim=True)


@pytest.mark.parametrize("is_net", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_a_prediction_is_the_map_that_was_trained(encoders, is_net, half):
    model = EMLNet(encoders, DecoderConfig(width=4)).eval() if is_net else encoders[0]
    with torch.no_grad():
        predicted = predict_output(model, prepare_image(joined(tall())), half=half)
    close = {"rtol": 0, "atol": 0.1 if half else 1e-4}
    torch.testing.assert_close(predicted, trained_map(model), **close)


def test_an_encoder_without_letterbox_sees_the_picture_at_a_size_of_its_own(make_encoder):
    encoder = make_encoder("density", seed=1)
    with torch.no_grad():
        predicted = encoder(prepare_image(joined(tall())))
    assert (predicted - trained_map(encoder)).abs().max() > 0.01


def test_maps_are_densities_of_the_pictures_own_size(encoders):
    model = EMLNet(encoders, DecoderConfig(width=4)).eval()
    for size in ((100, 50), (7, 90), (64, 96)):
        with torch.no_grad():
            output = model(prepare_image(joined(tall(size))))
        assert output.shape == (1, 1, *size)
        assert output.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_encoders_that_letterbox_join_with_their_like_alone(make_encoder, encoders):
    other = make_encoder("density", letterbox=True, size=(64, 96))
    for odd in (make_encoder("density"), other):
        with pytest.raises(ValueError, match="can only be joined with encoders that do so"):
            EMLNet([*encoders, odd], DecoderConfig())


def test_an_eml_encoder_does_not_letterbox():
    with pytest.raises(ValueError, match="stretches every picture"):
        Encoder(EncoderConfig(backbone="tiny", weights="none", readout="eml", letterbox=True))
