"""Weights that a library publishes: fetched once, checked, and without a network an error."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from urllib.error import URLError

import pytest
import torch
import torchvision

from emlnet.backbones import BACKBONES, build_backbone, table


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A published file of resnet18, the name of which promises its SHA-256; returns its state."""
    torch.manual_seed(0)
    whole = torchvision.models.resnet18().state_dict()
    torch.save(whole, tmp_path / "resnet18.pth")
    digest = hashlib.sha256((tmp_path / "resnet18.pth").read_bytes()).hexdigest()
    target = (tmp_path / "resnet18.pth").rename(tmp_path / f"resnet18-{digest[:8]}.pth")
    row = replace(BACKBONES["resnet18"], url=target.as_uri())
    monkeypatch.setitem(table.BACKBONES, "resnet18", row)
    return whole


def test_default_weights_are_fetched_and_the_classifier_is_left_out(published, capsys):
    network = build_backbone("resnet18")
    assert torch.equal(
        network.state_dict()["layer4.1.bn2.weight"], published["layer4.1.bn2.weight"]
    )
    printed = capsys.readouterr().out
    assert "downloading file:" in printed
    assert "left out 2 of the classifier (fc.weight, fc.bias)" in printed
    build_backbone("resnet18")
    assert "downloading" not in capsys.readouterr().out


def test_the_table_names_the_files_of_torchvision():
    rows = [row for row in BACKBONES.values() if row.source == "torchvision"]
    theirs = [torchvision.models.get_model_weights(row.name).DEFAULT.url for row in rows]
    assert [row.url for row in rows] == theirs


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet50", "resnet50-11ad3fa6.pth"),
        ("nasnetalarge", "nasnetalarge-a1897284.pth"),
        ("timm:test_vit.r160_in1k", "timm--test_vit.r160_in1k.safetensors"),
    ],
)
def test_without_a_network_the_error_says_which_file_to_put_where(
    name, file, monkeypatch, tmp_path
):
    def unreachable(*_):
        raise URLError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(ValueError, match="Network is unreachable") as error:
        build_backbone(name)
    assert f"put it at {tmp_path / 'hub' / 'checkpoints' / file}" in str(error.value)
    assert "download http" in str(error.value)


def test_a_backbone_without_any_published_weights_says_what_to_pass():
    with pytest.raises(ValueError, match=r"no library publishes any; pass --weights PATH, or"):
        build_backbone("tiny")
