"""Smaller pictures for trials, and readouts in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emlnet.data.samples import Decoded
from tune.smaller import Gaze, Part, Shrunk, SmallReader, scaled, shrink


def sample(points: list[tuple[int, int]], size: tuple[int, int] = (8, 12)) -> Decoded:
    rng = np.random.default_rng(0)
    return Decoded(
        key="train/a",
        image=rng.integers(0, 255, (*size, 3), np.uint8),
        points=np.array(points, np.int32),
        observers=np.zeros(len(points), np.int32),
        density=np.full(size, 40, np.uint8),
    )


def test_a_fixation_falls_on_the_pixel_that_holds_its_own():
    shrunk = shrink(sample([(0, 0), (1, 1), (2, 0), (11, 7)]), 0.5)
    assert shrunk.points.tolist() == [[0, 0], [0, 0], [1, 0], [5, 3]]
    assert shrunk.image.shape == (4, 6, 3)
    assert (shrunk.density == 40).all()


def test_a_pixel_of_a_smaller_picture_is_the_mean_of_those_it_covers():
    whole = sample([(0, 0)])
    shrunk = shrink(whole, 0.5)
    mean = whole.image.reshape(4, 2, 6, 2, 3).mean((1, 3))
    assert np.abs(shrunk.image - mean).max() <= 1


def test_a_scale_of_one_changes_nothing():
    whole = sample([(3, 4)])
    assert shrink(whole, 1) is whole


def test_a_photograph_that_is_not_looked_at_takes_no_memory():
    blind = sample([(3, 4)])
    blind = Decoded(**{**vars(blind), "image": np.broadcast_to(np.uint8(0), (8, 12, 3))})
    assert shrink(blind, 0.5).image.strides[:2] == (0, 0)


def test_a_cache_of_smaller_pictures_is_not_that_of_the_whole_ones(data):
    digests = {SmallReader(data, "val", scale).digest for scale in (1, 0.5, 0.25)}
    assert len(digests) == 3


def test_sizes_are_multiples_where_a_backbone_wants_them():
    assert scaled((360, 480), 0.5, multiple=8) == (176, 240)
    assert scaled((480, 640), 0.25) == (120, 160)


class Fake:
    """A cache of three samples: tap 0 at (8, 8), tap 1 at (2, 2); mirrored ones are negative."""

    def read(self, positions, flips):
        values = torch.tensor(
            [(-1.0 if flip else 1.0) * (p + 1) for p, flip in zip(positions, flips, strict=True)]
        )
        return [values.view(-1, 1, 1, 1).expand(-1, 1, side, side).half() for side in (8, 2)]


class FakeEncoder:
    """Its map is the mean of its first readout."""

    kind = "density"

    def own_map(self, readouts, size):
        return readouts[0].mean((2, 3), keepdim=True).expand(-1, 1, *size)


def test_readouts_keep_their_samples_and_coarse_ones_their_size():
    shrunk = Shrunk.of(Fake(), FakeEncoder(), [(16, 20)] * 3, 0.5)  # type: ignore[arg-type]
    fine, coarse, own = shrunk.read([2, 0], [True, False])
    assert own.shape == (2, 1, 8, 10)
    assert own[:, 0, 0, 0].tolist() == [-3.0, 1.0]
    assert fine.shape == (2, 1, 4, 4)
    assert coarse.shape == (2, 1, 2, 2)
    assert fine[:, 0, 0, 0].tolist() == coarse[:, 0, 0, 0].tolist() == [-3.0, 1.0]


def test_a_part_counts_its_own_positions():
    (first, _) = Part(Fake(), [2, 1]).read([0, 1], [False, False])
    assert first[:, 0, 0, 0].tolist() == [3.0, 2.0]


def test_gaze_in_memory_is_that_of_each_sample():
    gaze = Gaze(
        np.arange(2 * 4, dtype=np.uint8).reshape(2, 2, 2),
        np.array([[0, 1], [1, 1], [1, 0]], np.int32),
        np.array([2, 3]),
    )
    assert gaze(0).points.tolist() == [[0, 1], [1, 1]]
    assert gaze(1).points.tolist() == [[1, 0]]
    assert gaze(1).density.tolist() == [[4, 5], [6, 7]]


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 0.5, 0.7])
def test_no_fixation_falls_outside_a_smaller_picture(scale):
    points = [(x, y) for x in (0, 5, 11) for y in (0, 3, 7)]
    shrunk = shrink(sample(points), scale)
    height, width = shrunk.density.shape
    assert (shrunk.points >= 0).all()
    assert (shrunk.points < (width, height)).all()
