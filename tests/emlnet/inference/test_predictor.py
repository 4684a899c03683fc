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


@pytest.mark.parametrize("size", [(37, 501), (80, 45), (1, 1), (32, 48)])
def test_a_prediction_has_the_pictures_own_size_and_sums_to_one(density, size):
    assert_density(density.predict(noise(size)), size)


@pytest.mark.parametrize("flip", [False, True])
def test_a_density_sums_to_one_with_and_without_the_mirrored_picture(density, flip):
    assert_density(density.predict(noise(), flip), (37, 50))


@pytest.mark.parametrize("flip", [False, True])
def test_an_eml_model_answers_a_map_and_a_log_density(make_net, flip):
    package = Package(model=make_net(("eml", "density"), "eml"))
    prediction = package.predict(noise(), flip)
    assert prediction.kind == "eml"
    assert prediction.saliency.shape == (37, 50)
    assert 0 <= prediction.saliency.min() < prediction.saliency.max() <= 1
    assert np.exp(prediction.log_density).sum() == pytest.approx(1, abs=1e-4)


def test_pictures_of_every_mode_are_predicted(density, tmp_path):
    values = np.arange(37 * 50, dtype=np.uint16).reshape(37, 50) * 35
    images = {
        "grey.png": Image.fromarray(noise()[..., 0]),
        "rgba.png": Image.fromarray(noise(channels=4)),
        "cmyk.jpg": Image.fromarray(noise()).convert("CMYK"),
        "16bit.png": Image.fromarray(values),
        "palette.gif": Image.fromarray(noise()).convert("P"),
        "bits.png": Image.fromarray(noise()[..., 0]).convert("1"),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
        assert_density(density.predict(tmp_path / name), (37, 50))


def test_a_rotated_photograph_is_predicted_upright(density, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise()).save(tmp_path / "a.png", exif=exif)
    prediction = density.predict(tmp_path / "a.png")
    assert_density(prediction, (50, 37))
    upright = density.predict(np.ascontiguousarray(np.rot90(noise(), -1)))
    np.testing.assert_array_equal(prediction.saliency, upright.saliency)


@pytest.mark.parametrize("name", ["rotated", "transparent", "16 bit"])
def test_an_opened_picture_is_predicted_as_its_file_is(density, tmp_path, name):
    exif, image = Image.Exif(), Image.fromarray(noise())
    if name == "rotated":
        exif[0x0112] = 6
    elif name == "transparent":
        image = Image.fromarray(noise(channels=4))
    else:
        image = Image.fromarray(np.arange(37 * 50, dtype=np.uint16).reshape(37, 50) * 35)
    image.save(tmp_path / "a.png", exif=exif)
    expected = density.predict(tmp_path / "a.png").saliency
    with Image.open(tmp_path / "a.png") as opened:
        np.testing.assert_array_equal(density.predict(opened).saliency, expected)


def test_a_path_an_array_and_a_tensor_of_one_picture_are_predicted_alike(density, tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    expected = density.predict(noise()).saliency
    tensor = torch.from_numpy(noise()).permute(2, 0, 1) / 255
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), tensor, Image.fromarray(noise())):
        np.testing.assert_array_equal(density.predict(given).saliency, expected)


def test_a_grey_array_is_predicted_as_three_equal_channels(density):
    grey = noise()[..., 0]
    expected = density.predict(np.repeat(grey[..., None], 3, 2)).saliency
    np.testing.assert_array_equal(density.predict(grey).saliency, expected)


def test_arrays_and_tensors_of_every_kind_are_one_picture(density):
    expected = density.predict(noise()).saliency
    pixels, floats = noise(), noise().astype(np.float32) / 255
    opaque = np.full((37, 50, 1), 255, np.uint8)
    tensor = torch.from_numpy(noise()).permute(2, 0, 1)
    for given in (
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


def test_a_grey_picture_may_have_a_channel_axis(density):
    grey = noise(channels=1)
    expected = density.predict(grey[..., 0]).saliency
    for given in (grey, torch.from_numpy(grey[..., 0]), torch.from_numpy(grey).permute(2, 0, 1)):
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
        (np.zeros((3, 4, 3), np.int64), r"pixels are uint8, uint16, bool or floats.*found int64"),
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
    assert f"an array: the values go up to {top}" in caplog.text


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
    first, second = density.predict_batch(batch)
    np.testing.assert_allclose(first.saliency, density.predict(batch[0]).saliency, rtol=1e-4)
    np.testing.assert_allclose(second.saliency, density.predict(batch[1]).saliency, rtol=1e-4)


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


def test_a_map_of_16_bits_has_finer_steps_than_one_of_8(density):
    prediction = density.predict(noise())
    fine, coarse = prediction.picture16(), prediction.picture()
    assert (fine.min(), fine.max()) == (0, 65535)
    np.testing.assert_allclose(fine / 65535, coarse / 255, atol=0.5 / 255 + 1e-4)
    assert len(np.unique(fine)) > len(np.unique(coarse))


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


def test_a_picture_of_the_map_uses_all_grey_levels(model):
    drawn = Package(model=model).predict(noise()).picture()
    assert drawn.dtype == np.uint8
    assert drawn.shape == (37, 50)
    assert (drawn.min(), drawn.max()) == (0, 255)


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
