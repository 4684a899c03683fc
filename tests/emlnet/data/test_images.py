from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from emlnet.data import images
from emlnet.data.images import (
    contour_levels,
    decode_picture,
    draw_contours,
    heat,
    overlay,
    read_picture,
    side_by_side,
    to_grey,
)


def noise(size=(30, 40), channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, kind, **options
    )
    return file.getvalue()


def test_a_colour_picture_is_its_pixels():
    np.testing.assert_array_equal(decode_picture(encode(noise()), "a"), noise())


def test_a_grey_picture_has_three_equal_channels():
    grey = noise()[..., 0]
    decoded = decode_picture(encode(grey), "a")
    np.testing.assert_array_equal(decoded, np.repeat(grey[..., None], 3, 2))


def test_what_is_transparent_lies_on_white():
    pixels = noise(channels=4)
    pixels[:15, :, 3], pixels[15:, :, 3] = 0, 255
    decoded = decode_picture(encode(pixels), "a")
    assert (decoded[:15] == 255).all()
    np.testing.assert_array_equal(decoded[15:], pixels[15:, :, :3])


def test_a_palette_with_a_transparent_colour_lies_on_white():
    image = Image.new("P", (4, 3), 0)
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.putpixel((1, 1), 1)
    decoded = decode_picture(encode(image, transparency=0), "a")
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[1, 1].tolist() == [200, 10, 10]


def test_a_cmyk_picture_becomes_rgb():
    image = Image.new("CMYK", (40, 30), (0, 255, 255, 0))
    decoded = decode_picture(encode(image, "JPEG", quality=95), "a")
    assert decoded.shape == (30, 40, 3)
    assert decoded[..., 0].mean() > 200
    assert decoded[..., 1:].mean() < 60


def test_a_16_bit_picture_keeps_its_upper_8_bits():
    values = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 54
    decoded = decode_picture(encode(values), "a")
    np.testing.assert_array_equal(decoded[..., 0], values >> 8)
    np.testing.assert_array_equal(decoded[..., 2], values >> 8)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: np.rot90(a, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_a_photograph_is_upright_by_its_exif(orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_picture(encode(noise(), exif=exif), "a")
    np.testing.assert_array_equal(decoded, turn(noise()))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_that_cannot_be_read_turns_nothing(kind):
    exif = b"Exif\0\0garbagegarbage"
    np.testing.assert_array_equal(
        decode_picture(encode(noise(), kind, exif=exif, lossless=True), "a"), noise()
    )


def test_files_in_linked_folders_are_found_once(tmp_path):
    (tmp_path / "pictures" / ".hidden").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    for name in ("pictures/a.png", "pictures/.hidden/b.png", "elsewhere/deep/c.PNG"):
        (tmp_path / name).touch()
    (tmp_path / "pictures" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "round").symlink_to(tmp_path / "elsewhere")
    found = images.files_below(tmp_path / "pictures", [".png"])
    assert [str(path.relative_to(tmp_path / "pictures")) for path in found] == [
        "a.png",
        "linked/deep/c.PNG",
    ]


def test_an_unreadable_picture_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^dog\.jpg cannot be decoded"):
        decode_picture(b"no picture", "dog.jpg")
    with pytest.raises(ValueError, match=r"^cut\.png cannot be decoded"):
        decode_picture(encode(noise((300, 400)))[:20_000], "cut.png")
    with pytest.raises(ValueError, match=r"gone\.png cannot be read: No such file"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="cannot be read"):
        read_picture(tmp_path)


def test_a_picture_that_claims_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"^bomb\.png cannot be decoded: it claims 40 x 30"):
        decode_picture(encode(noise()), "bomb.png")


def test_a_picture_read_from_a_file_is_its_pixels(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(noise()))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), noise())


def test_grey_of_an_8_bit_picture_is_itself():
    grey = noise()[..., 0]
    np.testing.assert_array_equal(to_grey(Image.fromarray(grey)), grey)


def test_heat_goes_from_dark_to_light():
    colours = heat(np.linspace(-0.2, 1.2, 30)[None])
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
    assert (laid[0, 0] < 200).all()
    assert (laid[0, 0] > 100).all()


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
