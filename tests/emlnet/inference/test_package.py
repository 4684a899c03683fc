from __future__ import annotations

import hashlib
import json
import os
import pickle

import numpy as np
import pytest
import torch

import emlnet
from emlnet.backbones import BACKBONES
from emlnet.inference.model_card import first_lines
from emlnet.inference.package import CARD, MODEL, WEIGHTS, Description, Package, load, save
from emlnet.models.encoder import EncoderConfig
from emlnet.models.precision import to_channels_last
from tests.emlnet.conftest import noise

ABOUT = {"name": "a test", "scores": {"kl": 0.5}, "licence": "none"}


@pytest.fixture
def saved(make_encoder, tmp_path):
    return save(tmp_path / "model", make_encoder(), ABOUT)


def change_description(folder, **changes):
    content = json.loads((folder / MODEL).read_text())
    (folder / MODEL).write_text(json.dumps({**content, **changes}))


# --- saved and loaded


def test_a_loaded_model_predicts_to_the_last_bit_what_the_saved_one_did(model, tmp_path):
    before = Package(model=to_channels_last(model, torch.device("cpu"))).predict(noise(), flip=True)
    package = emlnet.load(save(tmp_path / "model", model, ABOUT))
    assert not any(module.training for module in package.model.modules())
    after = package.predict(noise(), flip=True)
    assert package.kind == after.kind == before.kind
    np.testing.assert_array_equal(after.saliency, before.saliency)
    np.testing.assert_array_equal(after.log_density, before.log_density)
    np.testing.assert_array_equal(after.picture(), before.picture())


def test_a_package_is_three_files_and_remembers_what_is_known_of_it(saved):
    assert {path.name for path in saved.iterdir()} == {MODEL, WEIGHTS, CARD}
    assert load(str(saved)).about == ABOUT
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_the_card_says_what_the_model_is(saved):
    card = (saved / CARD).read_text()
    front = "library_name: emlnet\nlicense: other\ntags: [saliency, eye-tracking]\n"
    assert card.startswith(f'---\n{front}metrics: ["kl"]\n---\n')
    assert first_lines(card).startswith("a test: where people look in a picture\n")
    assert first_lines(card.partition("\n---\n")[2]) == first_lines(card)
    for fact in ("tiny (32 x 48 pixels)", "KL 0.500", "weights: none", "## Not meant for"):
        assert fact in card


def test_a_changed_card_is_refused(saved):
    (saved / CARD).write_text("Use it for everything.")
    with pytest.raises(ValueError, match=r"README\.md has changed since it was saved"):
        load(saved)


def test_a_model_of_an_earlier_version_without_card_and_sizes_is_still_one(saved):
    (saved / CARD).unlink()
    files = json.loads((saved / MODEL).read_text())["files"]
    change_description(saved, files={WEIGHTS: files[WEIGHTS]}, sizes={})
    assert load(saved).about == ABOUT


def test_what_is_no_model_is_not_saved_over(model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"mine holds other files \(thesis\.txt\)"):
        save(tmp_path / "mine", model)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_saving_over_a_model_leaves_the_new_one_alone(saved, make_encoder):
    save(saved, make_encoder("eml"))
    assert load(saved).kind == "eml"
    assert {path.name for path in saved.iterdir()} == {MODEL, WEIGHTS, CARD}


# --- refused


@pytest.mark.parametrize("position", [9, -1])
def test_a_changed_byte_of_the_weights_is_refused(saved, change_byte, position):
    change_byte(saved / WEIGHTS, position)
    with pytest.raises(ValueError, match=r"weights\.safetensors has changed since it was saved"):
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


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"format": 1}', "[" * 99_999])
def test_a_file_that_describes_no_model_is_refused(saved, content):
    (saved / MODEL).write_text(content)
    with pytest.raises(ValueError, match=r"model\.json does not describe a model: ") as error:
        load(saved)
    assert "\n" not in str(error.value)


ENCODER = {"backbone": "tiny", "size": [32, 48]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format is 2, expected 1"),
        ({"colour": "red"}, "colour is not known to this version"),
        ({"files": {}}, r"it names files \[\], expected weights"),
        ({"files": {"../../etc/passwd": "00"}}, r"files.../../etc/passwd is not known"),
        ({"files": [WEIGHTS]}, "files is .*, expected an object"),
        ({"files": {WEIGHTS: 3}}, r"files.weights.safetensors is 3, expected a text"),
        ({"sizes": {WEIGHTS: -1}}, r"sizes.weights.safetensors is -1, expected 1 to"),
        ({"sizes": {WEIGHTS: 1e99}}, r"sizes.weights.safetensors is 1e\+99, expected a whole"),
        ({"about": []}, r"about is \[\], expected an object"),
        ({"about": {"data": "SALICON"}}, r'about.data is "SALICON", expected an object'),
        ({"about": {"scores": {"kl": "0.2"}}}, r'about.scores.kl is "0.2", expected a number'),
        ({"encoders": None}, "encoders is null, expected a list"),
        ({"encoders": []}, "it has 0 encoders, expected 1 without a decoder"),
        ({"encoders": [ENCODER] * 33, "decoder": {}}, "it has 33 encoders, expected 1 to 32"),
        ({"encoders": [ENCODER] * 2}, "it has 2 encoders, expected 1 without a decoder"),
        ({"encoders": [3]}, r"encoders\[0\] is 3, expected an object"),
        ({"encoders": [{"backbone": "vgg"}]}, "unknown backbone 'vgg'"),
        ({"encoders": [{"backbone": ["tiny"]}]}, r"encoders\[0\].backbone is .*, expected a text"),
        ({"encoders": [ENCODER | {"colour": "red"}]}, r"encoders\[0\].colour is not known"),
        ({"encoders": [ENCODER | {"size": [32]}]}, r"encoders\[0\].size has 1 items"),
        (
            {"encoders": [ENCODER | {"size": [32, 9999999]}]},
            r"size\[1\] is 9999999, expected 32 to",
        ),
        ({"encoders": [ENCODER | {"size": 32}]}, r"encoders\[0\].size is 32, expected a list"),
        ({"encoders": [ENCODER | {"readout_width": 0}]}, "readout_width is 0, expected 1 to 4096"),
        ({"encoders": [ENCODER | {"readout_width": True}]}, "is true, expected a whole number"),
        ({"encoders": [ENCODER | {"letterbox": 1}]}, "letterbox is 1, expected true or false"),
        ({"encoders": [ENCODER | {"readout": "maps"}]}, 'is "maps", expected density or eml'),
        ({"decoder": {"colour": "red"}}, "decoder.colour is not known"),
        ({"decoder": {"width": 10**9}}, "decoder.width is 1000000000, expected 1 to 4096"),
    ],
)
def test_a_wrong_field_is_one_sentence(saved, changes, said):
    change_description(saved, **changes)
    with pytest.raises(
        ValueError, match=rf"model\.json does not describe a model: .*{said}"
    ) as error:
        load(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("width", [5, 4096])
def test_weights_of_another_model_are_refused_before_memory_is_taken(saved, width, monkeypatch):
    content = json.loads((saved / MODEL).read_text())
    content["encoders"][0]["readout_width"] = width
    change_description(saved, encoders=content["encoders"])
    built = []
    monkeypatch.setattr(
        Description, "build", lambda self, real=Description.build: note(real(self), built)
    )
    with pytest.raises(ValueError, match=r"wrong weights in .*weights\.safetensors: shape: "):
        load(saved)
    assert [next(model.parameters()).device.type for model in built] == ["meta"]


def note(model, built):
    built.append(model)
    return model


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_is_described_without_memory(name):
    row = BACKBONES[name]
    size = row.size if row.only_size else row.nearest_size((64, 64))
    config = EncoderConfig(backbone=name, weights="none", size=size)
    described = Description(encoders=(config,), decoder=None, files={}, sizes={}, about={})
    with torch.device("meta"):
        state = described.build().state_dict()
    assert all(value.is_meta for value in state.values())


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
