"""Pictures of every kind to maps, alone, in batches, mirrored and in 16 bits."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from emlnet.data import images
from emlnet.inference.package import Package
from emlnet.inference.predictor import predict_output, to_tensor
from tests.emlnet.conftest import noise


@pytest.fixture
def density(make_net):
    return Package(model=make_net(("density", "eml")))


def assert_density(prediction, size):
    assert prediction.saliency.shape == prediction.log_density.shape == size
    assert prediction.saliency.dtype == prediction.log_density.dtype == np.float32
    assert np.exp(prediction.log_density.astype(float)).sum() == pytest.approx(1, abs=1e-4)
    assert prediction.saliency.sum(dtype=float) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(37, 501), (80, 45), (1, 1), (32, 48)])
def test_a_prediction_has_the_pictures_own_size_and_sums_to_one(density, size, flip):
    assert_density(density.predict(noise(size), flip), size)


@pytest.mark.parametrize("flip", [False, True])
def test_an_eml_model_answers_a_map_and_a_log_density(make_net, flip):
    package = Package(model=make_net(("eml", "density"), "eml"))
    prediction = package.predict(noise(), flip)
    assert prediction.kind == "eml"
    assert prediction.saliency.shape == (37, 50)
    assert 0 <= prediction.saliency.min() < prediction.saliency.max() <= 1
    assert np.exp(prediction.log_density).sum() == pytest.approx(1, abs=1e-4)


GREY_16 = np.arange(37 * 50, dtype=np.uint16).reshape(37, 50) * 35


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("grey.png", Image.fromarray(noise()[..., 0])),
        ("rgba.png", Image.fromarray(noise(channels=4))),
        ("cmyk.jpg", Image.fromarray(noise()).convert("CMYK")),
        ("16bit.png", Image.fromarray(GREY_16)),
        ("palette.gif", Image.fromarray(noise()).convert("P")),
        ("bits.png", Image.fromarray(noise()[..., 0]).convert("1")),
    ],
)
def test_a_file_of_every_mode_is_predicted_as_the_opened_picture_is(density, tmp_path, name, image):
    image.save(tmp_path / name)
    prediction = density.predict(tmp_path / name)
    assert_density(prediction, (37, 50))
    with Image.open(tmp_path / name) as opened:
        np.testing.assert_array_equal(density.predict(opened).saliency, prediction.saliency)


def test_a_rotated_photograph_is_predicted_upright(density, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise()).save(tmp_path / "a.png", exif=exif)
    upright = density.predict(np.ascontiguousarray(np.rot90(noise(), -1))).saliency
    with Image.open(tmp_path / "a.png") as opened:
        for given in (tmp_path / "a.png", opened):
            np.testing.assert_array_equal(density.predict(given).saliency, upright)


def test_paths_arrays_and_tensors_of_every_kind_are_one_picture(density, tmp_path):
    pixels, floats = noise(), noise().astype(np.float32) / 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = density.predict(pixels).saliency
    opaque = np.full((37, 50, 1), 255, np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for given in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(pixels),
        floats,
        floats.astype(np.float64),
        pixels.astype(np.uint16) * 257,
        np.concatenate([pixels, opaque], 2),
        tensor,
        tensor / 255,
        (tensor / 255).double(),
        torch.cat([tensor, torch.full((1, 37, 50), 255, dtype=torch.uint8)]),
    ):
        np.testing.assert_allclose(density.predict(given).saliency, expected, rtol=1e-4)


def test_a_grey_picture_is_three_equal_channels(density):
    grey = noise(channels=1)
    expected = density.predict(np.repeat(grey, 3, 2)).saliency
    tensor = torch.from_numpy(grey)
    for given in (grey, grey[..., 0], tensor[..., 0], tensor.permute(2, 0, 1)):
        np.testing.assert_array_equal(density.predict(given).saliency, expected)


def test_what_is_transparent_in_an_array_lies_on_white():
    clear = np.concatenate([noise(), np.zeros((37, 50, 1), np.uint8)], 2)
    assert (to_tensor(clear) == 1).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((3, 4, 2), np.uint8), r"an array must be .*, found \(3, 4, 2\)"),
        (np.zeros((1, 3, 4, 3), np.uint8), r"found \(1, 3, 4, 3\) uint8; a batch goes to"),
        (torch.zeros(1, 3, 4, 4), r"a tensor must be .*, found \(1, 3, 4, 4\)"),
        (torch.zeros(2, 4, 4), r"found \(2, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"found \(0, 4, 3\)"),
        (np.full((3, 4, 3), 128.0), r"floats must lie in 0..1, found 128 to 128"),
        (np.full((3, 4, 3), np.nan), r"floats must lie in 0..1, found nan"),
        (
            np.zeros((3, 4, 3), np.int64),
            r"pixels must be uint8, uint16, bool or floats.*found int64",
        ),
    ],
)
def test_what_is_no_picture_is_refused_with_what_was_found(wrong, message):
    with pytest.raises(ValueError, match=message):
        to_tensor(wrong)


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383])
def test_an_array_of_16_bits_that_are_not_filled_is_not_black(top, caplog):
    images._warn_once.cache_clear()
    values = (noise() / 255 * top).round().astype(np.uint16)
    found = to_tensor(values)
    assert (found - to_tensor(noise())).abs().max() < 0.004
    assert f"an array: the largest value is {top}" in caplog.text


def test_an_array_of_16_bits_keeps_its_levels():
    levels = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    assert len(to_tensor(levels)[0].unique()) == 4096


@pytest.mark.parametrize("size", [(1, 21), (4000, 100)])
def test_a_picture_of_extreme_proportions_is_refused(density, size):
    with pytest.raises(ValueError, match="is longer than 20 to 1"):
        density.predict(np.zeros((*size, 3), np.uint8))


def test_a_batch_of_mixed_sizes_is_predicted_as_each_picture_alone(density, tmp_path):
    Image.fromarray(noise((20, 30))).save(tmp_path / "a.png")
    batch = [noise(), tmp_path / "a.png", noise()[..., 0], Image.fromarray(noise((20, 30)))]
    for prediction, picture in zip(density.predict_batch(batch), batch, strict=True):
        alone = density.predict(picture)
        assert prediction.saliency.shape == alone.saliency.shape
        np.testing.assert_allclose(prediction.log_density, alone.log_density, atol=1e-5)


def test_an_array_of_pictures_is_a_batch(density):
    batch = np.stack([noise(), noise()[::-1]])
    for prediction, picture in zip(density.predict_batch(batch), batch, strict=True):
        np.testing.assert_allclose(
            prediction.saliency, density.predict(picture).saliency, rtol=1e-4
        )


def test_what_is_too_large_for_16_bits_is_computed_in_32(density, monkeypatch):
    image = to_tensor(noise())[None]
    full = predict_output(density.model, image)
    model, plain = density.model, density.model.readouts

    def overflowing(pixels):
        found = plain(pixels)
        if torch.is_autocast_enabled("cpu"):
            found[0][0] = found[0][0] * float("inf")
        return found

    monkeypatch.setattr(model, "readouts", overflowing)
    assert torch.equal(predict_output(model, image, half=True), full)


def test_half_precision_is_near_and_still_a_density(density):
    image = to_tensor(noise())[None]
    full, half = (predict_output(density.model, image, half=half) for half in (False, True))
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.1
    assert half.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_map_is_drawn_with_all_grey_levels_of_8_or_16_bits_or_up_to_a_given_value(model):
    prediction = Package(model=model).predict(noise())
    fine, coarse = prediction.picture(wide=True), prediction.picture()
    assert (fine.dtype, fine.shape, fine.min(), fine.max()) == (np.uint16, (37, 50), 0, 65535)
    assert (coarse.dtype, coarse.shape, coarse.min(), coarse.max()) == (np.uint8, (37, 50), 0, 255)
    np.testing.assert_allclose(fine / 65535, coarse / 255, atol=0.5 / 255 + 1e-4)
    assert len(np.unique(fine)) > len(np.unique(coarse))
    values = prediction.values()
    if prediction.kind == "density":
        assert values.mean() == pytest.approx(1, abs=1e-4)
    top = float(values.max()) * 2
    np.testing.assert_allclose(prediction.grey(top), values / top, rtol=1e-5)
    assert prediction.grey(top / 4).max() == 1


def test_the_mirrored_average_of_a_mirrored_picture_is_the_mirrored_map(model):
    package = Package(model=model)
    # Whole multiples of all strides, so that mirroring is exact.
    pixels = noise((32, 48))
    one = package.predict(pixels, flip=True)
    other = package.predict(np.ascontiguousarray(pixels[:, ::-1]), flip=True)
    np.testing.assert_allclose(other.log_density[:, ::-1], one.log_density, rtol=1e-5, atol=1e-6)
    assert np.abs(one.log_density[:, ::-1] - one.log_density).max() > 1e-3


def test_predicting_changes_nothing(model):
    package = Package(model=model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = package.predict(noise()).saliency
    np.testing.assert_array_equal(package.predict(noise()).saliency, first)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


MANY_SIZES = """
import numpy as np, psutil
from emlnet.inference.package import Package
from emlnet.inference.predictor import bound_layer_cache
from emlnet.models.decoder import DecoderConfig
from emlnet.models.eml_net import EMLNet
from emlnet.models.encoder import Encoder, EncoderConfig

bound_layer_cache()
names = ("efficientnet_lite0", "efficientnet_lite1", "resnet50")
encoders = [Encoder(EncoderConfig(backbone=n, weights="none", size=(192, 256))) for n in names]
package = Package(model=EMLNet(encoders, DecoderConfig()).eval())
sizes = np.random.default_rng(0).integers(100, 500, (100, 2))
package.predict(np.zeros((500, 500, 3), np.uint8))
for _ in range(3):
    for size in sizes:
        package.predict(np.zeros((*size, 3), np.uint8))
    print(psutil.Process().memory_info().rss / 2**20)
"""


@pytest.mark.slow
def test_memory_stays_flat_over_300_pictures_of_100_sizes():
    answer = subprocess.run(
        [sys.executable, "-c", MANY_SIZES], capture_output=True, check=True, text=True
    )
    first, _, third = map(float, answer.stdout.split())
    assert third < first + 120
