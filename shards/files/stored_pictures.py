"""Convert photographs and density maps: from a source's file to a shard's, and to pixels.

A JPEG or PNG photograph is stored byte for byte, with its EXIF.  Other formats (TIFF, BMP, WebP,
GIF) are rotated upright and stored as PNG.  A density map is stored as an 8-bit grey PNG.
"""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from emlnet.data.images import MAX_PIXELS, SUFFIXES, decode_picture, open_picture, to_grey, to_rgb
from shards.files.mat_files import read_matrix

PHOTOGRAPHS = SUFFIXES
DENSITY_MAPS = (*PHOTOGRAPHS, ".mat")
GREY_TOLERANCE = 24
"""Largest difference of red, green and blue in a grey picture after JPEG."""
SIGNATURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}
USUAL_SIGMA = 1 / 32
"""Sigma of density maps as a fraction of the width: SALICON's is 1 / 34, OSIE's 1 / 33."""
REDUCE = 4
"""Maps are compared at a quarter of their size."""
PNG_MODES = {"1", "L", "RGB", "RGBA", "I;16"}


def upright_size(path: Path) -> tuple[int, int] | None:
    """Return the (H, W) of a picture as displayed, from its header; None if it is unreadable."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:  # The error is reported later, when the picture is decoded.
        return None


def picture_suffix(data: bytes, name: str) -> str:
    """Return `jpg` or `png` by the first bytes; ValueError starting with `name` for others."""
    for signature, suffix in SIGNATURES.items():
        if data.startswith(signature):
            return suffix
    raise ValueError(f"{name} is neither a JPEG nor a PNG")


def as_stored(data: bytes, name: str) -> bytes:
    """Convert a photograph's file for a shard.  Raises ValueError starting with `name`."""
    if data.startswith(tuple(SIGNATURES)):
        return data
    image = ImageOps.exif_transpose(open_picture(data, name))
    if image.has_transparency_data:
        image = image.convert("RGBA")
    return encode_png(image if image.mode in PNG_MODES else to_rgb(image, name))


def decode_photograph(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode as `emlnet.data.images.decode_picture`, (H, W, 3) uint8; faster for most JPEGs."""
    with suppress(Exception):  # Pillow, below, raises with the reason.
        header = Image.open(io.BytesIO(data))
        if (
            header.format == "JPEG"
            and header.mode == "RGB"
            and header.width * header.height <= MAX_PIXELS
            and header.getexif().get(ExifTags.Base.Orientation, 1) == 1
        ):
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB")
            return pixels
    return decode_picture(data, name)


def read_density(path: Path, name: str) -> NDArray[np.uint8]:
    """Read a density map (picture or .mat) as (H, W) uint8; ValueError starting with `name`."""
    if path.suffix.lower() != ".mat":
        return decode_density(path.read_bytes(), name)
    return to_grey(Image.fromarray(read_matrix(path, name).astype(np.float32)), name)


def decode_density(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode a density map to (H, W) uint8; a map of more than 8 bits is scaled.

    Raises ValueError starting with `name` if it cannot be decoded or is in colour.
    """
    image = open_picture(data, name)
    if image.mode in ("P", "LA", "RGB", "RGBA", "CMYK", "YCbCr"):
        colours = np.asarray(image.convert("RGB")).astype(np.int16)
        if np.ptp(colours, axis=2).max(initial=0) > GREY_TOLERANCE:
            raise ValueError(f"{name} is in colour; a density map is grey")
    return to_grey(image, name)


def encode_png(picture: Image.Image | NDArray[np.uint8]) -> bytes:
    """Encode a picture as PNG, without the metadata of its file."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.info = {}
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def encode_density(pixels: NDArray[np.uint8]) -> bytes:
    """Encode (H, W) uint8 as a grey PNG in which each row holds the differences to the row above.

    Pillow cannot set a PNG's row filter.  It chooses the best filter for each row, which makes a
    smooth map no smaller and takes twice as long to decode.
    """
    height, width = pixels.shape
    rows = np.empty((height, width + 1), np.uint8)
    rows[:, 0] = 2  # The filter "up".
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0),
        b"IDAT": zlib.compress(rows.tobytes(), 6),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


def draw_density(
    points: NDArray[np.int32], size: tuple[int, int], sigma: float
) -> NDArray[np.uint8]:
    """Blur fixations (N, 2) by a Gaussian of sigma pixels; return (H, W) uint8, maximum 255."""
    density = _blur(_count(points, size), sigma)
    pixels: NDArray[np.uint8] = (density / density.max() * 255).round().astype(np.uint8)
    return pixels


def map_correlation(
    density: NDArray[np.uint8], points: NDArray[np.int32], sigma: float | None
) -> float:
    """Return Pearson's correlation of a map with one made from the fixations, to three digits.

    sigma: sigma in pixels of the Gaussian; None: USUAL_SIGMA of the width.
    """
    sigma = density.shape[1] * USUAL_SIGMA if sigma is None else sigma
    small = np.asarray(Image.fromarray(density).reduce(REDUCE), np.float64)
    made = _blur(_count(points // REDUCE, small.shape), sigma / REDUCE)
    if not small.std() or not made.std():
        return 0.0
    return round(float(np.corrcoef(small.ravel(), made.ravel())[0, 1]), 3)


def _count(points: NDArray[np.int32], size: tuple[int, ...]) -> NDArray[np.float32]:
    counts = np.zeros(size, np.float32)
    np.add.at(counts, (points[:, 1], points[:, 0]), 1)
    return counts


def _blur(counts: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter  # Takes a second; only building shards needs it.

    blurred: NDArray[np.float32] = gaussian_filter(counts, sigma, mode="constant")
    return blurred
