from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from emlnet.data import images
from emlnet.data.images import FORMATS, decode_picture, open_picture, read_picture, to_grey


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


GREY = np.arange(1200).reshape(30, 40) % 256
"""A photograph of 8 bits."""


def tiff_with_range(values, top):
    return encode(Image.fromarray(values), "TIFF", tiffinfo={281: top})


@pytest.mark.parametrize(
    ("data", "is_told"),
    [
        (encode((GREY * 257).astype(np.uint16)), False),
        (encode((GREY * 257).astype(np.uint16), "TIFF"), False),
        (encode((GREY / 255).astype(np.float32), "TIFF"), False),
        (b"P5 40 30 4095\n" + (GREY * 4095 / 255).round().astype(">u2").tobytes(), False),
        (tiff_with_range((GREY * 20).astype(np.uint16), 5100), False),
        (encode(GREY.astype(np.uint16), "TIFF"), True),
        (encode((GREY * 4).astype(np.uint16)), True),
        (encode((GREY * 16).astype(np.uint16)), True),
        (encode((GREY * 64).astype(np.uint16)), True),
        (encode(GREY.astype(np.int32), "TIFF"), True),
        (encode((GREY * 257).astype(np.int32), "TIFF"), True),
        (encode((GREY * 65793).astype(np.int32), "TIFF"), True),
        (encode(GREY.astype(np.float32), "TIFF"), True),
        (encode((GREY * 257).astype(np.float32), "TIFF"), True),
    ],
    ids=[
        "16 bits", "16 bits TIFF", "float 0..1", "12 bits PGM", "range in its metadata",
        "8 in 16", "10 in 16", "12 in 16", "14 in 16", "int32 of 8", "int32 of 16", "int32 of 24",
        "float of 8", "float of 16",
    ],
)  # fmt: skip
def test_a_grey_photograph_is_the_same_whatever_its_type_and_a_guess_is_told(data, is_told, caplog):
    images._warn_once.cache_clear()
    decoded = decode_picture(data, "photo.tif")
    assert np.abs(decoded.astype(int) - GREY[..., None]).max() <= 4
    assert ("photo.tif: the largest value is" in caplog.text) == is_told


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((4, 4), -3, np.int32), "has values from -3 to -3, expected 0 or more"),
        (np.full((4, 4), np.nan, np.float32), "has values from nan to nan"),
        (np.full((4, 4), np.inf, np.float32), "has values from inf to inf"),
        (np.full((4, 4), 1e9, np.float32), r"has floats up to 1e\+09, expected 0 to 1"),
    ],
)
def test_values_without_a_range_are_refused_by_name(values, said):
    with pytest.raises(ValueError, match=f"photo.tif {said}"):
        decode_picture(encode(values, "TIFF"), "photo.tif")


def test_a_black_photograph_of_16_bits_is_black_without_a_word(caplog):
    assert not decode_picture(encode(np.zeros((4, 4), np.uint16)), "a").any()
    assert not caplog.text


def png16(colours):
    """A PNG of 16-bit colours, which Pillow reads but does not write."""
    height, width, _ = colours.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content
            + struct.pack(">I", zlib.crc32(name + content))
        )  # fmt: skip

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_16_bit_colours_that_pillow_would_read_as_black_are_refused():
    full = decode_picture(png16(noise().astype(np.uint16) * 257), "a")
    np.testing.assert_array_equal(full, noise())
    with pytest.raises(
        ValueError, match=r"^a\.png cannot be decoded: its 16-bit colours use at most"
    ):
        decode_picture(png16(noise().astype(np.uint16) * 16), "a.png")


@pytest.mark.parametrize("top", [200, 2000, 65535])
@pytest.mark.parametrize(("kind", "type_"), [("PNG", np.uint16), ("TIFF", np.int32),
                                             ("TIFF", np.float32)])  # fmt: skip
def test_a_map_has_no_scale_of_its_own(top, kind, type_):
    values = (np.arange(1200).reshape(30, 40) / 1199 * top).astype(type_)
    grey = to_grey(open_picture(encode(values, kind), "a"))
    assert grey.dtype == np.uint8
    assert np.abs(grey - values / values.max() * 255).max() <= 0.5 + 1e-3
    assert len(np.unique(grey)) > 190


def test_a_map_of_zeros_stays_one_and_negative_values_are_refused():
    assert not to_grey(Image.fromarray(np.zeros((4, 4), np.uint16))).any()
    with pytest.raises(ValueError, match="a has negative values"):
        to_grey(Image.fromarray(np.full((4, 4), -1, np.int32)), "a")


@pytest.mark.parametrize("kind", [name for name in FORMATS if name != "HEIF"])
def test_each_format_is_read_and_no_other(kind):
    smooth = np.asarray(Image.fromarray(noise((3, 4))).resize((40, 30)))
    decoded = decode_picture(encode(smooth, kind), "a")
    assert np.abs(decoded.astype(int) - smooth).mean() < 12
    for other in ("JPEG2000", "TGA", "PCX", "ICO"):
        with pytest.raises(ValueError, match="a cannot be decoded: its format is not JPEG, PNG"):
            decode_picture(encode(smooth, other), "a")


def test_a_photograph_with_a_second_picture_in_it_is_its_first():
    file = io.BytesIO()
    first, second = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    first.save(file, "MPO", save_all=True, append_images=[second], quality=95)
    assert decode_picture(file.getvalue(), "a")[..., 0].min() > 250


def test_an_iphones_photograph_names_what_to_install(monkeypatch):
    monkeypatch.setattr(images, "find_spec", lambda _: None)
    images._available.cache_clear()
    with pytest.raises(ValueError, match=r'a\.heic .*pip install "emlnet\[heif\]"'):
        decode_picture(b"\0\0\0\x18ftypheic" + bytes(50), "a.heic")
    images._available.cache_clear()


def test_an_iphones_photograph_is_read_where_the_extra_is_installed():
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    assert decode_picture(encode(noise((64, 64)), "HEIF"), "a").shape == (64, 64, 3)


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1), (10, 201)])
def test_a_picture_of_extreme_proportions_is_refused_before_it_is_decoded(size, monkeypatch):
    data = encode(Image.new("L", size))
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(ValueError, match=r"^a cannot .* pixels is longer than 20 to 1; cut it"):
        decode_picture(data, "a")


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
    data = encode(noise())
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(ValueError, match=r"^bomb\.png cannot be decoded: it claims 40 x 30"):
        decode_picture(data, "bomb.png", max_pixels=1000)
