from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from emlnet.data.batches import prepare_image, prepare_targets
from tests.emlnet.data.small_samples import decoded, joined


def test_a_batch_keeps_bytes_and_says_whose_each_pixel_is():
    first, second = decoded([(4, 3)]), decoded([(0, 1), (2, 0)], key="train/b", seed=1)
    batch = joined(first, second, weight=[1, 0])
    assert batch.keys == ("train/a", "train/b")
    assert batch.image.dtype == batch.density.dtype == torch.uint8
    np.testing.assert_array_equal(batch.image.view(2, 4, 5, 3)[1], second.image)
    np.testing.assert_array_equal(batch.density.view(2, 4, 5)[1], second.density)
    assert batch.index.tolist() == [3 * 5 + 4, 20 + 2, 20 + 1 * 5]
    assert batch.weight.tolist() == [1, 0]


def test_a_sample_without_fixations_can_be_in_a_batch():
    targets = prepare_targets(joined(decoded([]), decoded([(1, 2)], key="b")))
    assert targets.index.tolist() == [4 * 5 + 2 * 5 + 1]
    assert targets.fixation_map().sum((1, 2, 3)).tolist() == [0, 1]


def test_samples_of_different_sizes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"train/a \(4, 5\), train/b \(5, 4\)"):
        joined(decoded([(0, 0)]), decoded([(0, 0)], size=(5, 4), key="train/b"))


def test_a_fixation_map_holds_every_fixation_at_its_pixel():
    targets = prepare_targets(joined(decoded([(3, 1), (3, 1), (0, 2)]), decoded([(4, 0)])))
    expected = torch.zeros(2, 1, 4, 5)
    expected[0, 0, 1, 3], expected[0, 0, 2, 0], expected[1, 0, 0, 4] = 2, 1, 1
    assert torch.equal(targets.fixation_map(), expected)
    assert targets.index.tolist() == [1 * 5 + 3, 2 * 5, 4 * 5 + 4]
    assert targets.size == (4, 5)


def test_densities_sum_to_one():
    targets = prepare_targets(joined(decoded([(0, 0)]), decoded([(0, 0)], seed=1)))
    torch.testing.assert_close(targets.density.sum((1, 2, 3)), torch.ones(2))


def test_a_density_of_zeros_becomes_uniform():
    targets = prepare_targets(joined(decoded([(0, 0)], density=np.zeros((4, 5), np.uint8))))
    assert torch.equal(targets.density, torch.full((1, 1, 4, 5), 1 / 20))


def test_a_flip_mirrors_image_density_and_fixations_of_its_sample_alone():
    samples = decoded([(0, 1), (3, 2)]), decoded([(4, 0)], seed=1)
    plain, flipped = joined(*samples), joined(*samples, flip=[True, False])
    for prepare in (
        prepare_image,
        lambda b: prepare_targets(b).density,
        lambda b: prepare_targets(b).fixation_map(),
    ):
        before, after = prepare(plain), prepare(flipped)
        assert torch.equal(after[0], before[0].flip(-1))
        assert torch.equal(after[1], before[1])


def test_images_become_floats_from_zero_to_one():
    sample = decoded([(0, 0)])
    sample = dataclasses.replace(sample, image=np.full((4, 5, 3), [0, 51, 255], np.uint8))
    image = prepare_image(joined(sample))
    assert image.dtype == torch.float32
    torch.testing.assert_close(image[0, :, 0, 0], torch.tensor([0, 0.2, 1]))
