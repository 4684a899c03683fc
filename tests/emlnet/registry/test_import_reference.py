"""The authors' released files, in their form, become a model that answers as theirs does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import emlnet
from emlnet.__main__ import main
from emlnet.inference import package
from emlnet.models.eml_net import EMLNet
from emlnet.registry.import_reference import import_reference
from tests.emlnet.conftest import AUTHORS_DECODER, AUTHORS_ENCODER, authors_key

SIZE = (96, 128)


def authors_file(path, module: nn.Module, table, prefix=""):
    """A checkpoint in the form that the authors released."""
    state = {prefix + authors_key(key, table): v for key, v in module.state_dict().items()}
    torch.save({"epoch": 10, "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def files(authors_net, tmp_path_factory):
    """Two encoders, one of them saved from several GPUs, and the decoder."""
    folder = tmp_path_factory.mktemp("authors")
    first, second = authors_net.encoders
    return [
        authors_file(folder / "res_imagenet.pth", first, AUTHORS_ENCODER),
        authors_file(folder / "res_places.pth", second, AUTHORS_ENCODER, "module."),
        authors_file(folder / "res_decoder.pth", authors_net.decoder, AUTHORS_DECODER),
    ]


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "model"
    words = ["import-reference", *map(str, files), str(folder), "--size", *map(str, SIZE)]
    assert main(words) == 0
    return folder


def test_the_imported_model_answers_the_authors_map(imported, golden):
    model = emlnet.load(imported).model
    with torch.no_grad():
        torch.testing.assert_close(model(golden["image"]), golden["decoder_map"], rtol=0, atol=1e-4)


def test_the_package_says_which_files_it_came_from(imported, files):
    about = package.read_description(imported).about
    assert about["files"] == {path.name: package.file_digest(path) for path in files}
    assert "no licence" in about["licence"]


def test_one_encoders_file_alone_becomes_an_encoder(files, golden, tmp_path):
    encoder = import_reference(files[1:2], tmp_path / "encoder", SIZE)
    assert not isinstance(encoder, EMLNet)
    loaded = emlnet.load(tmp_path / "encoder").model
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(golden["image"]), golden["encoder1_map"], rtol=0, atol=1e-4
        )


def test_encoders_in_the_wrong_order_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match=r"res_places\.pth is given before res_imagenet\.pth"):
        import_reference([files[1], files[0], files[2]], tmp_path / "model")


def test_another_set_of_files_is_refused_with_what_was_found(files, tmp_path):
    with pytest.raises(ValueError, match="in this order; found 2 files"):
        import_reference(files[:2], tmp_path / "model")
    with pytest.raises(ValueError, match=r"res_decoder\.pth, read as EML-NET's Encoder: missing"):
        import_reference([files[2], *files[:2]], tmp_path / "model")


def test_a_missing_key_is_named_with_its_file(files, tmp_path):
    state = torch.load(files[0], weights_only=True)["state_dict"]
    del state["output3.0.bias"]
    torch.save({"state_dict": state}, tmp_path / "cut.pth")
    with pytest.raises(
        ValueError, match=r"cut\.pth, read as EML-NET's Encoder: missing: readout\.3\.0\.bias"
    ):
        import_reference([tmp_path / "cut.pth"], tmp_path / "model")
    assert not (tmp_path / "model").exists()
