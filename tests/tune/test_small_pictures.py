"""Smaller pictures for trials."""

from __future__ import annotations

import numpy as np
import pytest

from emlnet.data.samples import Decoded
from tune.small_pictures import scaled, shrink


def sample(points: list[tuple[int, int]]) -> Decoded:
    image = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)
    return Decoded(
        key="train/a",
        image=image,
        points=np.array(points, np.int32),
        observers=np.zeros(len(points), np.int32),
        density=np.full((8, 12), 40, np.uint8),
    )


def test_a_pixel_has_the_mean_colour_and_the_fixations_of_those_it_covers():
    whole = sample([(0, 0), (1, 1), (2, 0), (11, 7)])
    shrunk = shrink(whole, 0.5)
    assert shrunk.points.tolist() == [[0, 0], [0, 0], [1, 0], [5, 3]]
    mean = whole.image.reshape(4, 2, 6, 2, 3).mean((1, 3))
    assert np.abs(shrunk.image - mean).max() <= 1
    assert (shrunk.density == 40).all()
    assert shrink(whole, 1) is whole


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 0.5, 0.7])
def test_no_fixation_falls_outside_a_smaller_picture(scale):
    shrunk = shrink(sample([(x, y) for x in (0, 5, 11) for y in (0, 3, 7)]), scale)
    height, width = shrunk.density.shape
    assert (shrunk.points >= 0).all()
    assert (shrunk.points < (width, height)).all()


def test_a_photograph_that_is_not_looked_at_takes_no_memory():
    blind = sample([(3, 4)])
    blind = Decoded(**{**vars(blind), "image": np.broadcast_to(np.uint8(0), (8, 12, 3))})
    assert shrink(blind, 0.5).image.strides[:2] == (0, 0)


def test_sizes_are_multiples_where_a_backbone_wants_them():
    assert scaled((360, 480), 0.5, multiple=8) == (176, 240)
    assert scaled((480, 640), 0.25) == (120, 160)
