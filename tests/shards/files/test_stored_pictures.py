"""Photographs as cameras and programs leave them: all are stored, none is harmed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from emlnet.data.images import decode_picture
from shards.files import stored_pictures
from shards.files.codec import decode_pictures, decode_record, encode_record
from shards.files.stored_pictures import decode_density, decode_photograph, encode_density
from shards.layouts.all_layouts import find_samples
from shards.layouts.raw_samples import read

ORIENTATION = 0x0112


def saved(image, kind, orientation=None, **options):
    file = io.BytesIO()
    if orientation:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    image.save(file, kind, **options)
    return file.getvalue()


def stored(raw, image, points=([[1, 1]],), size=(30, 40)):
    """What shards give back of a photograph, by way of a tar."""
    raw.add("train/a", points, size)
    (raw.path / "images/train/a.jpg").unlink()
    raw.put("images/train/a.tif" if image[:2] == b"II" else "images/train/a.png", image)
    folder = find_samples(raw.path)
    sample = read(folder, folder.splits["train"][0]).sample
    return decode_pictures(decode_record(encode_record(sample), "train/a")), sample.image


def picture(mode, colour, size=(40, 30)):
    return Image.new(mode, size, colour)


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (picture("CMYK", (0, 255, 0, 0)), "TIFF", (255, 0, 255)),
        (picture("RGBA", (200, 0, 0, 255)), "TIFF", (200, 0, 0)),
        (picture("P", 0), "GIF", (0, 0, 0)),
        (picture("I;16", 0x9234), "TIFF", (0x92, 0x92, 0x92)),
        (picture("F", 77.0), "TIFF", (77, 77, 77)),
        (picture("1", 1), "BMP", (255, 255, 255)),
        (picture("RGB", (1, 2, 3)), "BMP", (1, 2, 3)),
        (picture("RGB", (1, 2, 3)), "WEBP", (1, 2, 3)),
        (picture("RGB", (1, 2, 3)), "TIFF", (1, 2, 3)),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "mode", ""),
)
def test_a_photograph_of_any_mode_and_format_becomes_rgb(raw, image, kind, expected):
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded, _ = stored(raw, saved(image, kind, **options))
    assert decoded.image.shape == (30, 40, 3)
    np.testing.assert_allclose(decoded.image, np.broadcast_to(expected, (30, 40, 3)), atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_jpeg_or_png_is_kept_byte_for_byte(raw, kind):
    image = saved(picture("RGB", (1, 2, 3)), kind, orientation=3)
    assert stored(raw, image)[1] == image


def test_another_format_is_kept_pixel_for_pixel_as_png(raw):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    decoded, image = stored(raw, saved(Image.fromarray(pixels), "TIFF"))
    assert image.startswith(b"\x89PNG")
    np.testing.assert_array_equal(decoded.image, pixels)


def test_sixteen_bits_of_grey_are_kept(raw):
    pixels = np.random.default_rng(0).integers(0, 65536, (30, 40)).astype(np.uint16)
    _, image = stored(raw, saved(Image.fromarray(pixels), "TIFF"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image))), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_fixations_are_on_the_photograph_as_it_is_displayed(raw, kind, orientation):
    """One bright corner, stored turned and mirrored as EXIF says, is where the fixation is."""
    shown = np.zeros((32, 48, 3), np.uint8)
    shown[:8, 40:] = 255
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL's transpositions
    image = Image.fromarray(shown)
    if orientation > 1:
        image = image.transpose(Image.Transpose(undo[orientation]))
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    content = saved(image, kind, orientation, **options)
    decoded, _ = stored(raw, content, [[[46, 3]]], (32, 48))
    ((x, y),) = decoded.points
    assert decoded.image.shape == (32, 48, 3)
    assert decoded.image[y, x].min() > 240
    assert decoded.image[y, 47 - x].max() < 15
    assert decoded.image[31 - y, x].max() < 15


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (19, 1), (7, 13), (33, 65)])
def test_odd_sizes_are_read(raw, size):
    decoded, _ = stored(raw, saved(picture("RGB", 5, size[::-1]), "PNG"), [[[1, 1]]], size)
    assert decoded.image.shape == (*size, 3)
    assert decoded.points.tolist() == [[0, 0]]


def test_a_map_made_of_one_fixation_is_a_gaussian():
    drawn = stored_pictures.draw_density(np.array([[20, 15]], np.int32), (30, 40), 3)
    y, x = np.mgrid[:30, :40]
    expected = 255 * np.exp(-((x - 20) ** 2 + (y - 15) ** 2) / 18)
    assert drawn.dtype == np.uint8
    np.testing.assert_allclose(drawn, expected, atol=1)


def test_a_map_agrees_with_its_own_fixations_and_not_with_others():
    rng = np.random.default_rng(0)
    one, other = (rng.integers((10, 10), (310, 230), (8, 2)).astype(np.int32) for _ in range(2))
    drawn = stored_pictures.draw_density(one, (240, 320), 9)
    assert stored_pictures.map_correlation(drawn, one, 9) > 0.99
    assert stored_pictures.map_correlation(drawn, one, None) > 0.95
    assert stored_pictures.map_correlation(drawn, other, 9) < 0.5
    assert stored_pictures.map_correlation(np.full((240, 320), 7, np.uint8), one, 9) == 0


def noise(size):
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


def encoded(pixels, kind, **options):
    return saved(Image.fromarray(pixels), kind, **options)


@pytest.mark.parametrize("size", [(1, 1), (15, 7), (16, 9), (17, 3), (480, 640)])
def test_a_grey_map_comes_back_here_and_in_pillow(size):
    data = encode_density(noise(size))
    np.testing.assert_array_equal(decode_density(data, "a"), noise(size))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), noise(size))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_grey_map_of_any_writer_is_read(kind):
    np.testing.assert_array_equal(
        decode_density(encoded(noise((20, 30)), kind), "a"), noise((20, 30))
    )


@pytest.mark.parametrize("length", [0, 20, 40, 60, 300])
def test_a_cut_map_is_refused_by_name(length):
    with pytest.raises(ValueError, match="the map cannot be decoded"):
        decode_density(encode_density(noise((20, 30)))[:length], "the map")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_has_pillows_pixels(options):
    data = encoded(noise((40, 50, 3)), "JPEG", quality=90, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode_photograph(data, "a"), expected)


def test_a_turned_grey_or_cmyk_jpeg_goes_pillows_way():
    turned = encoded(noise((40, 50, 3)), "JPEG", orientation=6)
    assert decode_photograph(turned, "a").shape == (50, 40, 3)
    cmyk = saved(picture("CMYK", 0), "JPEG")
    for data in (turned, encoded(noise((40, 50)), "JPEG"), cmyk):
        np.testing.assert_array_equal(decode_photograph(data, "a"), decode_picture(data, "a"))


def test_a_cut_jpeg_is_refused():
    data = encoded(noise((400, 500, 3)), "JPEG")
    with pytest.raises(ValueError, match="the photograph cannot be decoded"):
        decode_photograph(data[: len(data) // 2], "the photograph")
