"""Photographs and density maps as they come from a source, and as they are stored.

A photograph that is a JPEG or PNG is stored byte for byte, EXIF and all; of any other format
(TIFF, BMP, WebP, GIF) its pixels, turned upright, as PNG. A density map is stored as grey PNG.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

from emlnet.data.images import open_picture, to_grey, to_rgb
from shards.files.codec import SIGNATURES
from shards.files.pixels import encode_grey

PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
USUAL_SIGMA = 1 / 32
"""Of a density map's Gaussian, as a part of the width: SALICON's is 1 / 34, OSIE's 1 / 33."""
REDUCE = 4
"""Maps are compared at a fourth of their size."""
PNG_MODES = {"1", "L", "RGB", "RGBA", "I;16"}


def as_stored(data: bytes, name: str) -> bytes:
    """A photograph's file as shards hold it.  Raises ValueError starting with `name`."""
    if data.startswith(tuple(SIGNATURES)):
        return data
    image = ImageOps.exif_transpose(open_picture(data, name))
    if image.has_transparency_data:
        image = image.convert("RGBA")
    return encode_png(image if image.mode in PNG_MODES else to_rgb(image))


def map_as_stored(data: bytes, name: str) -> bytes:
    """A density map's file as shards hold it.  Raises ValueError starting with `name`."""
    image = open_picture(data, name)
    return data if image.format == "PNG" else encode_grey(to_grey(image))


def encode_png(picture: Image.Image | NDArray[np.uint8]) -> bytes:
    """A picture as PNG, without what its file said beside the pixels."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.info = {}
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def draw_density(
    points: NDArray[np.int32], size: tuple[int, int], sigma: float
) -> NDArray[np.uint8]:
    """(H, W) uint8, greatest 255: fixations (N, 2) blurred by a Gaussian of sigma pixels."""
    density = _blur(_count(points, size), sigma)
    pixels: NDArray[np.uint8] = (density / density.max() * 255).round().astype(np.uint8)
    return pixels


def agreement(density: NDArray[np.uint8], points: NDArray[np.int32], sigma: float | None) -> float:
    """Pearson's correlation of a density map with one made of the fixations, to three digits.

    sigma: pixels of its Gaussian; when it is not known, what is usual for the width.
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
    blurred: NDArray[np.float32] = gaussian_filter(counts, sigma, mode="constant")
    return blurred
