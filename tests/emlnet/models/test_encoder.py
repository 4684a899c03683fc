from __future__ import annotations

import math

import pytest
import torch

from emlnet.models.encoder import Encoder, EncoderConfig, eml_conv


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_an_encoder_answers_at_the_pictures_own_size(make_encoder, kind):
    encoder = make_encoder(kind)
    for size in [(32, 48), (37, 101), (90, 41)]:
        with torch.no_grad():
            assert encoder(torch.rand(1, 3, *size)).shape == (1, 1, *size)


def test_a_density_encoder_answers_a_log_density(make_encoder, image):
    with torch.no_grad():
        answer = make_encoder("density")(image)
    torch.testing.assert_close(answer.exp().sum((1, 2, 3)), torch.ones(2))
    assert answer.std() > 0


def test_an_eml_encoder_answers_a_map_from_zero_to_one(make_encoder, image):
    with torch.no_grad():
        answer = make_encoder("eml")(image)
    assert answer.min() >= 0
    assert answer.max() <= 1
    assert answer.std() > 0


@pytest.mark.parametrize("kind", ["density", "eml"])
def test_there_is_one_readout_of_one_channel_per_tapped_layer(make_encoder, image, kind):
    readouts = make_encoder(kind).readouts(image)
    assert [tuple(r.shape) for r in readouts] == [(2, 1, 16, 24), (2, 1, 8, 12)]


def test_a_density_encoder_scales_pixels_as_the_backbone_was_trained():
    config = EncoderConfig(backbone="efficientnet_lite0", weights="none", size=(64, 64))
    encoder = Encoder(config).eval()
    seen = []
    encoder.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder.readouts(torch.rand(1, 3, 64, 64).round())
    assert seen[0].unique().tolist() == [-1, 1]


def test_an_eml_encoder_feeds_plain_pixels(make_encoder, image):
    encoder = make_encoder("eml")
    seen = []
    encoder.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder.readouts(image)
    assert torch.equal(seen[0], image)


def test_an_eml_encoder_stretches_every_picture_to_its_own_size(make_encoder):
    assert make_encoder("eml").input_size((500, 37)) == (32, 48)


def test_a_density_encoder_keeps_the_pictures_shape_at_the_same_area(make_encoder):
    encoder = make_encoder("density", size=(240, 320))
    assert encoder.input_size((480, 640)) == (240, 320)
    height, width = encoder.input_size((600, 400))
    assert height % 8 == width % 8 == 0
    assert height / width == pytest.approx(1.5, rel=0.03)
    assert height * width == pytest.approx(240 * 320, rel=0.04)


def test_new_convolutions_of_an_eml_encoder_are_drawn_as_the_authors_draw():
    torch.manual_seed(0)
    weight = eml_conv(2000).weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.02)


def test_a_size_below_32_pixels_is_refused():
    with pytest.raises(ValueError, match=r"at least 32 pixels, not \(16, 48\)"):
        EncoderConfig(size=(16, 48))


def test_the_blur_of_a_density_encoder_is_learned(make_encoder, image):
    encoder = make_encoder("density")
    (encoder(image) * torch.rand(2, 1, 32, 48)).sum().backward()
    assert encoder.head.log_sigma.grad.abs() > 0
    assert encoder.head.centre_bias.grad.abs().sum() > 0


@pytest.mark.parametrize("backbone", ["tiny", "timm:vit_small_patch14_dinov2.lvd142m"])
@pytest.mark.parametrize("own", [(42, 42), (140, 196), (476, 644)])
def test_a_backbone_sees_at_most_twice_the_area_of_its_size(backbone, own):
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig(backbone=backbone, weights="none", size=own))
    for size in ((1, 20), (2000, 100), (1, 1_000_000), (1_000_000, 1), (300, 400), (7, 9)):
        height, width = encoder.input_size(size)
        assert height * width <= 2 * own[0] * own[1]
        assert min(height, width) >= 32
