from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from emlnet.data.images import decode_picture
from shards.files.stored_pictures import decode_density, decode_photograph, encode_density


def noise(size):
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


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
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(noise((40, 50, 3)), "JPEG", exif=exif)
    assert decode_photograph(turned, "a").shape == (50, 40, 3)
    cmyk = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(cmyk, "JPEG")
    for data in (turned, encoded(noise((40, 50)), "JPEG"), cmyk.getvalue()):
        np.testing.assert_array_equal(decode_photograph(data, "a"), decode_picture(data, "a"))


def test_a_jpeg_that_claims_65535_squared_is_refused_before_it_is_decoded():
    data = bytearray(encoded(noise((40, 50, 3)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ValueError, match=r"the photograph cannot be decoded: .*4294836225"):
        decode_photograph(bytes(data), "the photograph")


def test_a_cut_jpeg_is_refused():
    data = encoded(noise((400, 500, 3)), "JPEG")
    with pytest.raises(ValueError, match="the photograph cannot be decoded"):
        decode_photograph(data[: len(data) // 2], "the photograph")
