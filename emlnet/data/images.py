"""Pictures and maps from files: any size and mode, one list of formats, one rule of ranges.

A photograph's range comes from its type: 0..255, 0..65535, 0..1 for floats.  Values of more than 8
bits that do not fill it are scaled by the range that the file states, or else by the fewest bits
that hold them, with a warning that names the file.  A map is divided by its maximum.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES_BY_FORMAT = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""The formats that are read (HEIF with the extra `heif`) and the endings of their files."""
FORMATS = tuple(SUFFIXES_BY_FORMAT)
SUFFIXES = tuple(suffix for known in SUFFIXES_BY_FORMAT.values() for suffix in known)
UPLOAD_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""The formats that strangers may send: their decoders are the most tested ones."""
MAX_PIXELS = 100_000_000
"""A picture that claims more pixels is refused before it is decoded."""
MAX_PROPORTION = 20
"""A picture that is longer than so many times its width, or the reverse, is refused."""
USUAL_BITS = (8, 10, 12, 14, 16, 24, 31)
"""Bits per value of cameras and scanners; the fewest that hold all values are assumed."""
MAX_SAMPLE_VALUE = 281
"""TIFF's tag for the greatest value."""

logger = logging.getLogger(__name__)


def read_picture(
    path: Path, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = FORMATS
) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 RGB of a picture file.  Raises ValueError that names the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return decode_picture(data, str(path), max_pixels, formats)


def decode_picture(
    data: bytes,
    name: str,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
) -> NDArray[np.uint8]:
    """Return an encoded picture as (H, W, 3) uint8 RGB: upright by its EXIF, alpha on white.

    Raises ValueError starting with `name` when `open_picture` does.
    """
    return to_rgb(open_picture(data, name, max_pixels, formats), name)


def open_picture(
    data: bytes,
    name: str,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
) -> Image.Image:
    """Decode an encoded picture whole.

    Raises ValueError starting with `name` when it has another format, too many pixels or extreme
    proportions (all before it is decoded), or is broken.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_available(formats))
        if image.width * image.height > max_pixels:
            raise ValueError(f"it claims {image.width} x {image.height} pixels")
        check_proportions(image.width, image.height)
        tiles = str(getattr(image, "tile", ""))
        image.load()
        if re.search(";16[BLN]", tiles) and image.mode.startswith(("RGB", "LA")):
            _check_16_bit_colour(image)
    except UnidentifiedImageError:
        hint = ""
        if data[4:8] == b"ftyp" and "HEIF" in formats:
            hint = ', or pip install "emlnet[heif]" if it comes from an iPhone'
        raise ValueError(
            f"{name} cannot be decoded: its format is not {', '.join(_available(formats))}" + hint
        ) from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more
        raise ValueError(f"{name} cannot be decoded: {error}") from error
    return image


@cache
def _available(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Return the formats that can be decoded here."""
    if "HEIF" not in formats:
        return formats
    if find_spec("pillow_heif") is None:
        return tuple(name for name in formats if name != "HEIF")
    import pillow_heif

    pillow_heif.register_heif_opener()
    return formats


def check_proportions(width: int, height: int) -> None:
    """Raise ValueError for a picture so long that a model would see nothing of it."""
    if max(width, height) > MAX_PROPORTION * min(width, height):
        raise ValueError(
            f"{width} x {height} pixels is longer than {MAX_PROPORTION} to 1; cut it into parts"
        )


def _check_16_bit_colour(image: Image.Image) -> None:
    """Raise ValueError for colours of fewer than 16 bits: Pillow keeps only the upper 8."""
    top = max(high for _, high in image.convert("RGB").getextrema())  # type: ignore[misc]
    if top < 64:
        raise ValueError(
            "its colours have 16 bits but fill at most 14, of which Pillow keeps the upper "
            f"{int(top).bit_length()}; save it with 8 bits"
        )


def to_rgb(image: Image.Image, name: str = "the picture") -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8 RGB: upright by its EXIF, whatever its mode, alpha on white.

    EXIF that cannot be read turns nothing.
    """
    stated = _stated_range(image)
    with suppress(Exception):  # Pillow raises SyntaxError, struct.error and more.
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        grey = to_unit_range(np.asarray(image), name, stated)
        return np.repeat((grey * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _stated_range(image: Image.Image) -> int | None:
    """Return the maximum of the pixels' range that the file states, or None."""
    if image.format == "PPM":
        return 65535  # Pillow scales them to it.
    value = getattr(image, "tag_v2", {}).get(MAX_SAMPLE_VALUE)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) and value > 0 else None


def to_unit_range(
    pixels: NDArray[Any], name: str, stated: int | None = None
) -> NDArray[np.float32]:
    """Return the pixels of a photograph as float32 in 0..1.

    stated: the greatest value that its metadata allow.  Raises ValueError starting with `name` for
    negative values, values that are not finite, and floats over 65535.
    """
    if pixels.dtype in (np.bool_, np.uint8):
        return pixels.astype(np.float32) / np.float32(1 if pixels.dtype == np.bool_ else 255)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and np.isfinite(high)):
        raise ValueError(f"{name} has values from {low:.4g} to {high:.4g}, expected 0 or more")
    if np.issubdtype(pixels.dtype, np.floating):
        own = 1
        # Resampling may leave values a little above 1.
        top = 1 if high <= 2 else 255 if high <= 255 else 65535
        if high > top > 1:
            raise ValueError(f"{name} has floats up to {high:.4g}, expected 0 to 1")
    else:
        own = int(np.iinfo(pixels.dtype).max)
        usual = next(2**bits - 1 for bits in USUAL_BITS if high < 2**bits)
        top = stated if stated is not None and stated >= high else min(usual, own)
    if top not in (own, stated) and high > 0:
        _warn_once(
            f"{name}: the values go up to {high:g} and do not fill their type; taken as a range of "
            f"0 to {top}"
        )
    return (pixels / np.float64(top)).clip(0, 1).astype(np.float32)


@cache
def _warn_once(line: str) -> None:
    """Log a warning, once for a photograph that is read in every epoch."""
    logger.warning(line)


def to_grey(image: Image.Image, name: str = "the map") -> NDArray[np.uint8]:
    """Return a map as (H, W) uint8; one of more than 8 bits is divided by its greatest value."""
    if not image.mode.startswith(("I", "F")):
        return np.asarray(image.convert("L"))
    values = np.asarray(image).astype(np.float64)
    if not (values.min() >= 0 and np.isfinite(values.max())):
        raise ValueError(f"{name} has negative values, or some that are not finite")
    grey: NDArray[np.uint8] = (values * (255 / (values.max() or 1))).round().astype(np.uint8)
    return grey


def files_below(folder: Path, suffixes: Sequence[str] = ()) -> list[Path]:
    """Return the files below a folder with one of the suffixes, in order, but for hidden ones.

    suffixes: all files where there are none, links that lead nowhere too.
    Linked folders are searched too.  Raises OSError for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(place)
        real = here.resolve()
        # A link to a folder above would be searched for ever.
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not real.is_relative_to((here / name).resolve())
        ]
        paths = (here / name for name in names if not name.startswith("."))
        found += [
            path
            for path in paths
            if not suffixes or (path.suffix.lower() in suffixes and path.is_file())
        ]
    return sorted(found)
