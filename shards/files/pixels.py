"""Pictures to pixels at the speed of libjpeg-turbo; what is unusual goes Pillow's way."""

from __future__ import annotations

import io
import struct
import zlib
from itertools import pairwise

import numpy as np
import simplejpeg
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import ExifTags, Image

from emlnet.data.images import MAX_PIXELS, decode_picture, open_picture, to_grey

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = 41
GREY_8 = bytes([8, 0, 0, 0, 0])
"""In a PNG's header: 8 bits, grey, not interlaced."""
UP = 2
"""The PNG filter whose rows are what they add to those above."""


def decode_photograph(
    data: bytes, name: str, place: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """What `emlnet.data.images.decode_picture` gives, (H, W, 3) uint8, sooner.

    place: memory of the picture's size, which is used where that saves a copy.
    """
    try:
        if _is_plain(data) or _is_upright(data):
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", buffer=place)
            return pixels
    except Exception:  # Pillow's way says what is wrong.
        pass
    return decode_picture(data, name)


def _is_plain(data: bytes) -> bool:
    """Whether it is a colour JPEG with neither EXIF nor a colour transform of its own."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[:2] == b"\xff\xd8":
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return data[at + 9] == 3 and height * width <= MAX_PIXELS
        if marker in (0xE1, 0xEE, 0xE2):  # EXIF or XMP, Adobe's, several pictures in one file.
            return False
        at += 2 + length
    return False


def _is_upright(data: bytes) -> bool:
    """Whether it is a colour JPEG that its EXIF does not turn, by Pillow's word."""
    header = Image.open(io.BytesIO(data))
    return (
        header.format == "JPEG"
        and header.mode == "RGB"
        and header.width * header.height <= MAX_PIXELS
        and header.getexif().get(ExifTags.Base.Orientation, 1) == 1
    )


def encode_grey(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W) uint8 as a PNG that decodes fast: each row is kept as what it adds to that above.

    A smooth map comes out about as small as with the filter that suits each row best, and its rows
    are put together by plain sums, not, byte for byte, by predictions from three neighbours.
    """
    height, width = pixels.shape
    rows = np.empty((height, width + 1), np.uint8)
    rows[:, 0] = UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0),
        b"IDAT": zlib.compress(rows.tobytes(), 6),
        b"IEND": b"",
    }
    return SIGNATURE + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in parts.items()
    )


def decode_grey(
    data: bytes, name: str, place: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """(H, W) uint8 of a grey picture, soonest of one that `encode_grey` made.

    place: memory of the picture's size, which is used where that saves a copy.
    Raises ValueError starting with `name` when it is broken.
    """
    width, height = struct.unpack(">II", data[16:24]) if len(data) > HEADER else (0, 0)
    if data[24:29] == GREY_8 and data[37:41] == b"IDAT" and 0 < width * height <= MAX_PIXELS:
        length = int.from_bytes(data[33:37], "big")
        try:
            rows = isal_zlib.decompress(data[41 : 41 + length], bufsize=height * (width + 1))
        except Exception:
            rows = b""  # Pillow's way says what is wrong.
        if len(rows) == height * (width + 1):
            filtered = np.frombuffer(rows, np.uint8).reshape(height, width + 1)
            if (filtered[:, 0] == UP).all():
                if place is None or place.shape != (height, width):
                    place = np.empty((height, width), np.uint8)
                np.copyto(place, filtered[:, 1:])
                return _sum_up(place)
    return to_grey(open_picture(data, name))


def _sum_up(rows: NDArray[np.uint8], block: int = 16) -> NDArray[np.uint8]:
    """Running sums down each column, in place.

    Blocks of rows are summed up side by side, then each takes what the one above came to: long
    sums of vectors instead of numpy's steps down one column after another.
    """
    whole = len(rows) // block * block
    blocks = rows[:whole].reshape(-1, block, rows.shape[1])
    for row in range(1, block):
        np.add(blocks[:, row - 1], blocks[:, row], out=blocks[:, row])
    for above, below in pairwise(blocks):
        np.add(below, above[-1], out=below)
    for row in range(max(1, whole), len(rows)):
        np.add(rows[row - 1], rows[row], out=rows[row])
    return rows
