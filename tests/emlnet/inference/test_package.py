from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys

import numpy as np
import pytest
import torch

import emlnet
from emlnet.inference.package import CARD, MODEL, WEIGHTS, Package, load, save
from emlnet.models.precision import lay_out
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
    before = Package(model=lay_out(model, torch.device("cpu"))).predict(noise(), flip=True)
    package = emlnet.load(save(tmp_path / "model", model, ABOUT))
    after = package.predict(noise(), flip=True)
    assert package.kind == after.kind == before.kind
    np.testing.assert_array_equal(after.saliency, before.saliency)
    np.testing.assert_array_equal(after.log_density, before.log_density)
    np.testing.assert_array_equal(after.picture(), before.picture())


def test_a_package_is_three_files_and_remembers_what_is_known_of_it(saved):
    assert {path.name for path in saved.iterdir()} == {MODEL, WEIGHTS, CARD}
    assert load(str(saved)).about == ABOUT
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_a_loaded_model_is_in_eval_mode_and_knows_its_encoders(make_net, tmp_path):
    package = load(save(tmp_path / "model", make_net(("density", "eml"))))
    assert not any(module.training for module in package.model.modules())
    assert [encoder.kind for encoder in package.encoders] == ["density", "eml"]


def test_a_package_alone_is_its_own_encoder(saved):
    package = load(saved)
    assert package.encoders == [package.model]


def test_the_card_says_what_the_model_is(saved):
    card = (saved / CARD).read_text()
    assert card.startswith("# a test: where people look in a picture")
    for fact in ("tiny (32 x 48 pixels)", "KL 0.500", "weights: none", "## Not meant for"):
        assert fact in card


def test_a_changed_card_is_refused(saved):
    (saved / CARD).write_text("Use it for everything.")
    with pytest.raises(ValueError, match=r"README\.md is not the file that was saved"):
        load(saved)


def test_a_model_without_a_card_is_still_one(saved):
    (saved / CARD).unlink()
    files = json.loads((saved / MODEL).read_text())["files"]
    change_description(saved, files={WEIGHTS: files[WEIGHTS]})
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
