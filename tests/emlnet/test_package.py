from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import emlnet
from emlnet.package import MODEL, WEIGHTS, Package, load, save, to_tensor

ABOUT = {"name": "a test", "scores": {"kl": 0.5}, "licence": "none"}


def noise(size=(37, 50), channels=3):
    return np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)


@pytest.fixture(params=["net", "eml net", "encoder", "eml encoder"])
def model(request, make_encoder, make_net):
    kind = "eml" if request.param.startswith("eml") else "density"
    if request.param.endswith("net"):
        return make_net(("density", "eml"), kind)
    return make_encoder(kind)


@pytest.fixture
def density(make_net):
    return Package(model=make_net(("density", "eml")))


@pytest.fixture
def saved(make_encoder, tmp_path):
    return save(tmp_path / "model", make_encoder(), ABOUT)


def change_description(folder, **changes):
    content = json.loads((folder / MODEL).read_text())
    (folder / MODEL).write_text(json.dumps({**content, **changes}))


def assert_density(prediction, size):
    assert prediction.saliency.shape == prediction.log_density.shape == size
    assert prediction.saliency.dtype == prediction.log_density.dtype == np.float32
    assert np.exp(prediction.log_density.astype(float)).sum() == pytest.approx(1, abs=1e-4)
    assert prediction.saliency.sum(dtype=float) == pytest.approx(1, abs=1e-4)


# --- saved and loaded


def test_a_loaded_model_predicts_to_the_last_bit_what_the_saved_one_did(model, tmp_path):
    before = Package(model=model).predict(noise(), flip=True)
    package = emlnet.load(save(tmp_path / "model", model, ABOUT))
    after = package.predict(noise(), flip=True)
    assert package.kind == after.kind == before.kind
    np.testing.assert_array_equal(after.saliency, before.saliency)
    np.testing.assert_array_equal(after.log_density, before.log_density)
    np.testing.assert_array_equal(after.picture(), before.picture())


def test_a_package_is_two_files_and_remembers_what_is_known_of_it(saved):
    assert {path.name for path in saved.iterdir()} == {MODEL, WEIGHTS}
    assert load(str(saved)).about == ABOUT
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_a_loaded_model_is_in_eval_mode_and_knows_its_encoders(make_net, tmp_path):
    package = load(save(tmp_path / "model", make_net(("density", "eml"))))
    assert not any(module.training for module in package.model.modules())
    assert [encoder.kind for encoder in package.encoders] == ["density", "eml"]


def test_a_package_alone_is_its_own_encoder(saved):
    package = load(saved)
    assert package.encoders == [package.model]


def test_saving_over_a_model_leaves_the_new_one_alone(saved, make_encoder):
    save(saved, make_encoder("eml"))
    assert load(saved).kind == "eml"
    assert {path.name for path in saved.iterdir()} == {MODEL, WEIGHTS}


def test_a_package_needs_no_mlflow_and_no_weights_to_start_from(saved, monkeypatch):
    for name in ("mlflow", "ray", "webdataset"):
        monkeypatch.setitem(sys.modules, name, None)
    load(saved).predict(noise())


# --- refused


@pytest.mark.parametrize("position", [9, -1])
def test_a_changed_byte_of_the_weights_is_refused(saved, change_byte, position):
    change_byte(saved / WEIGHTS, position)
    with pytest.raises(ValueError, match=r"weights\.safetensors is not the file that was saved"):
        load(saved)


def test_missing_files_are_named(saved, tmp_path):
    (saved / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"model/weights\.safetensors is missing"):
        load(saved)
    (saved / MODEL).unlink()
    with pytest.raises(ValueError, match=r"no model in .*: model\.json is missing"):
        load(saved)
    with pytest.raises(ValueError, match=r"model\.json is missing"):
        load(tmp_path / "nowhere")


def test_a_foreign_file_name_is_refused(saved):
    change_description(saved, files={"../../etc/passwd": "00"})
    with pytest.raises(ValueError, match=r"model\.json names files \['\.\./\.\./etc/passwd'\]"):
        load(saved)


def test_an_unknown_format_is_refused(saved):
    change_description(saved, format=2)
    with pytest.raises(ValueError, match=r"model\.json has format 2; .* reads 1"):
        load(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"format": 1}'])
def test_a_description_that_is_none_is_refused(saved, content):
    (saved / MODEL).write_text(content)
    with pytest.raises(ValueError, match=r"model\.json is no description of a model"):
        load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"encoders": []},
        {"encoders": None},
        {"encoders": [{"backbone": "tiny", "colour": "red"}]},
        {"decoder": {"colour": "red"}},
        {"files": [WEIGHTS]},
    ],
)
def test_a_description_of_no_model_that_can_be_built_is_refused_by_name(saved, changes):
    change_description(saved, **changes)
    with pytest.raises(ValueError, match=r"model\.json"):
        load(saved)


def test_an_unknown_backbone_is_refused(saved):
    content = json.loads((saved / MODEL).read_text())
    content["encoders"][0]["backbone"] = "vgg"
    change_description(saved, encoders=content["encoders"])
    with pytest.raises(ValueError, match="unknown backbone 'vgg'"):
        load(saved)


def test_weights_of_another_model_are_refused(saved):
    content = json.loads((saved / MODEL).read_text())
    content["encoders"][0]["readout_width"] = 5
    change_description(saved, encoders=content["encoders"])
    with pytest.raises(ValueError, match=r"wrong weights in .*weights\.safetensors: shape: "):
        load(saved)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled(saved, tmp_path):
    content = pickle.dumps(Malicious(tmp_path / "ran"))
    (saved / WEIGHTS).write_bytes(content)
    change_description(saved, files={WEIGHTS: hashlib.sha256(content).hexdigest()})
    with pytest.raises(Exception, match=r"(?i)weights|header"):
        load(saved)
    assert not (tmp_path / "ran").exists()


# --- predictions


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


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 4, 3), np.float32),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((1, 3, 4, 3), np.uint8),
        torch.zeros(1, 3, 4, 4),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
    ],
)
def test_what_is_no_picture_is_refused_with_its_shape(wrong):
    with pytest.raises(ValueError, match=r"\(.*H, W.*\).*, found \("):
        to_tensor(wrong)


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
