"""Every row of the table: what it says of itself, its gradients, its library's own key names."""

from __future__ import annotations

from functools import cache

import pretrainedmodels
import pytest
import timm
import torch
import torchvision

from emlnet.backbones import BACKBONES, find_backbone
from emlnet.models.encoder import Encoder, EncoderConfig

TIMM = (
    "timm:test_vit",
    "timm:test_resnet.r160_in1k",
    "timm:vit_small_patch14_dinov2.lvd142m",
    "timm:swin_tiny_patch4_window7_224",
    "timm:convnext_atto",
)
NAMES = (*BACKBONES, *TIMM)
QUICK = ("efficientnet_lite0", "resnet18", "se_resnext50_32x4d", "dpn92", "tiny", *TIMM[:2])
LARGE = {name: pytest.mark.slow for name in NAMES if name not in QUICK}
ALL = [pytest.param(name, marks=LARGE.get(name, ())) for name in NAMES]


def small_size(name):
    return find_backbone(name).nearest_size((64, 96))


def library_model(name):
    """The whole classifier, made by the library itself, without values."""
    with torch.device("meta"):
        if name.startswith("timm:"):
            return timm.create_model(name.removeprefix("timm:"))
        if BACKBONES[name].source == "timm":
            return timm.create_model(f"tf_{name}")
        if BACKBONES[name].source == "torchvision":
            return torchvision.models.get_model(name)
        return getattr(pretrainedmodels, name)(num_classes=1000, pretrained=None)


@cache
def without_values(name):
    """A row's network and its taps of two pictures, on the device that computes nothing."""
    with torch.device("meta"):
        network = find_backbone(name).build()
        return network, network(torch.empty(2, 3, *small_size(name)))


@pytest.mark.parametrize("name", NAMES)
def test_a_row_says_the_true_channels_and_reductions(name):
    row, (height, width) = find_backbone(name), small_size(name)
    _, taps = without_values(name)
    assert [tap.shape[:2] for tap in taps] == [(2, channels) for channels in row.channels]
    for tap, reduction in zip(taps, row.reductions, strict=True):
        # Stems that do not pad lose a pixel.
        assert abs(tap.shape[2] - height / reduction) <= 1
        assert abs(tap.shape[3] - width / reduction) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_takes_part_in_some_tap(name):
    network, taps = without_values(name)
    sum(tap.mean() for tap in taps).backward()
    # Else DistributedDataParallel would wait for gradients that never come.
    assert [key for key, weight in network.named_parameters() if weight.grad is None] == []


# A network of one's own has no library.
@pytest.mark.parametrize("name", [name for name in NAMES if find_backbone(name).source])
def test_the_librarys_own_keys_are_the_networks_and_the_classifiers(name):
    row = find_backbone(name)
    with torch.device("meta"):
        own = row.build().state_dict()
    given = {
        row.rename(key): value.shape for key, value in library_model(name).state_dict().items()
    }
    assert {key: given[key] for key in own} == {key: value.shape for key, value in own.items()}
    surplus = [key for key in given if key not in own]
    assert all(key.startswith(row.head) for key in surplus)
    shapes = sum(given[key].numel() for key in surplus)
    assert shapes < max(6e6, 0.15 * sum(given[key].numel() for key in given))


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_reaches_every_readout_and_the_first_layer(name):
    torch.manual_seed(0)
    size = small_size(name)
    encoder = Encoder(EncoderConfig(backbone=name, weights="none", size=size))
    output = encoder(torch.rand(2, 3, 64, 96))
    assert output.shape == (2, 1, 64, 96)
    (output * torch.randn(output.shape)).sum().backward()
    for number, read in enumerate(encoder.readout):
        assert read[0].weight.grad.abs().sum() > 0, f"readout {number}"
    assert next(encoder.backbone.parameters()).grad.abs().sum() > 0


def test_the_papers_nasnet_reads_out_by_one_pixel_and_a_sigmoid():
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig(backbone="nasnetalarge", weights="none", readout="eml"))
    assert [tuple(read[0].weight.shape) for read in encoder.readout] == [
        (1, channels, 1, 1) for channels in (336, 1344, 2688, 4032)
    ]
    assert all(isinstance(read[2], torch.nn.Sigmoid) for read in encoder.readout)
    assert encoder.head.combine[0].weight.shape == (1, 4, 1, 1)


def test_the_densenet_file_of_torchvision_has_its_old_names_changed():
    rename = BACKBONES["densenet161"].rename
    old = "features.denseblock1.denselayer2.norm.1.running_mean"
    assert rename(old) == "denseblock1.denselayer2.norm1.running_mean"


def test_resnet50_costs_what_its_paper_says():
    num_parameters, gmac = BACKBONES["resnet50"].cost((224, 224))
    assert num_parameters == 25_557_032 - 2_049_000  # Without the classifier.
    assert gmac == pytest.approx(4.1, abs=0.05)


def test_a_transformer_is_tapped_at_blocks_far_apart():
    row = find_backbone("timm:vit_small_patch14_dinov2.lvd142m")
    assert row.build().out_indices == [2, 5, 8, 11]
    assert row.reductions == (14, 14, 14, 14)


def test_a_size_that_no_patch_divides_is_refused_with_the_nearest_that_fits():
    name = "timm:vit_small_patch14_dinov2.lvd142m"
    with pytest.raises(ValueError, match=r"divisible by 14, not 480 x 640.*--size 476 644"):
        EncoderConfig(backbone=name)
    assert EncoderConfig(backbone=name, size=(476, 644)).size == (476, 644)


def test_a_transformer_sees_pictures_of_any_shape_in_whole_patches():
    config = EncoderConfig(backbone="timm:test_vit", weights="none", size=(64, 96))
    encoder = Encoder(config).eval()
    assert encoder.input_size((100, 50)) == (112, 48)  # 110.8 by 55.4 pixels are as many.
    with torch.no_grad():
        assert encoder(torch.rand(1, 3, 100, 50)).shape == (1, 1, 100, 50)


def test_a_network_of_one_size_alone_says_so():
    with pytest.raises(ValueError, match=r"224 x 224 pixels, not.*--size 224 224"):
        EncoderConfig(backbone="timm:mixer_b16_224", size=(64, 96))


def test_a_model_that_timm_does_not_have_is_refused_with_some_it_has():
    with pytest.raises(ValueError, match=r"timm has no model 'resnet51'; it has .*resnet"):
        find_backbone("timm:resnet51")
