from __future__ import annotations

import numpy as np
import torch

from emlnet.data.augment import change_colour
from emlnet.data.batches import prepare_image, prepare_targets
from tests.emlnet.data.small_samples import decoded, joined

IMAGE = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3


def factors(brightness=1.0, contrast=1.0, saturation=1.0):
    return torch.tensor([[brightness, contrast, saturation]]).expand(2, 3)


def test_factors_of_one_leave_a_picture():
    torch.testing.assert_close(change_colour(IMAGE, factors()), IMAGE)


def test_brightness_multiplies_and_is_clipped():
    torch.testing.assert_close(change_colour(IMAGE, factors(brightness=1.2)), IMAGE * 1.2)
    assert change_colour(IMAGE, factors(brightness=9.0)).max() == 1


def test_no_contrast_is_the_mean_luma_and_no_saturation_each_pixels_own():
    luma = (IMAGE * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    flat = change_colour(IMAGE, factors(contrast=0.0))
    torch.testing.assert_close(flat, luma.mean((2, 3), keepdim=True).expand_as(IMAGE))
    grey = change_colour(IMAGE, factors(saturation=0.0))
    torch.testing.assert_close(grey, luma.expand_as(IMAGE))


def test_colour_changes_its_picture_alone_and_no_gaze():
    sample = decoded([(1, 2)], (6, 8))
    colour = np.array([[1, 1, 1], [0.5, 1, 1]], np.float32)
    plain, changed = joined(sample, sample), joined(sample, sample, colour=colour)
    torch.testing.assert_close(prepare_image(changed)[0], prepare_image(plain)[0])
    torch.testing.assert_close(prepare_image(changed)[1], prepare_image(plain)[1] / 2)
    one, two = prepare_targets(plain), prepare_targets(changed)
    assert torch.equal(one.density, two.density)
    assert torch.equal(one.index, two.index)
