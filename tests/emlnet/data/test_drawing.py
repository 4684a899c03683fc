from __future__ import annotations

import numpy as np
import pytest

from emlnet.data.drawing import colour_map, contour_levels, draw_contours, overlay, side_by_side


def test_heat_goes_from_dark_to_light():
    colours = colour_map(np.linspace(-0.2, 1.2, 30)[None])
    assert colours.shape == (1, 30, 3)
    assert colours[0, 0].tolist() == [0, 0, 4]
    assert colours[0, -1].tolist() == [252, 255, 164]
    assert (np.diff(colours[0].astype(int).sum(-1)) >= 0).all()


def test_an_overlay_is_the_picture_where_nothing_is_salient_and_hot_where_all_is():
    pixels, saliency = np.full((10, 12, 3), 200, np.uint8), np.zeros((10, 12))
    saliency[5, 6] = 1
    laid = overlay(pixels, saliency)
    assert laid.shape == pixels.shape
    assert laid.dtype == np.uint8
    assert abs(laid[5, 6].astype(int) - [252, 255, 164]).max() < 30
    assert (laid[0, 0] == 200).all()


def test_contour_levels_bound_the_smallest_regions_that_hold_a_share():
    density = np.array([[8.0, 4.0], [2.0, 2.0]])
    assert contour_levels(density, [0.5, 0.75, 1.0]) == [8, 4, 2]


def test_contours_are_lines_where_the_map_crosses_a_level_and_leave_the_rest():
    y, x = np.mgrid[:200, :200]
    density = np.exp(-((x - 100) ** 2 + (y - 100) ** 2) / (2 * 20.0**2))
    pixels = np.full((200, 200, 3), 90, np.uint8)
    drawn = draw_contours(pixels, density)
    # Of a Gaussian, the share q lies within sigma * sqrt(-2 log(1 - q)) pixels: 15.2, 23.5, 33.3.
    for radius in (15, 24, 33):
        assert drawn[100, 100 + radius].max() != 90
    for radius in (0, 7, 60, 99):
        assert (drawn[100, 100 + radius] == 90).all()


def test_contours_of_a_constant_map_are_none_or_all_without_a_crash():
    drawn = draw_contours(np.zeros((8, 9, 3), np.uint8), np.ones((8, 9)))
    assert drawn.shape == (8, 9, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_contours_of_a_picture_of_one_pixel_or_one_line_do_not_fail(size):
    assert draw_contours(np.zeros((*size, 3), np.uint8), np.ones(size)).shape == (*size, 3)


def test_panels_stand_side_by_side_at_one_size():
    panels = [(name, np.zeros((960, 1280, 3), np.uint8)) for name in "ab"]
    assert side_by_side(panels).size == (2 * 640 + 8, 480 + 28)
    assert side_by_side(panels, height=2000).size == (2 * 1280 + 8, 960 + 28)
    captioned = side_by_side(panels, "a caption")
    assert captioned.size == (2 * 640 + 8, 480 + 2 * 28)
    assert np.asarray(captioned)[-28:].min() < 100
