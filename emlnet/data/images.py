"""Read pictures and maps from files of any size, mode and supported format.

A photograph is scaled by the range of its type: 0..255, 0..65535, or 0..1 for floats.  A photograph
of more than 8 bits may use only a part of that range.  Then it is scaled by the largest value that
the file states.  If the file states none, the smallest usual bit depth that holds the values is
assumed, with a warning that names the file.
A map is divided by its maximum.
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
"""Supported formats and the suffixes of their files; HEIF needs the extra `heif`."""
FORMATS = tuple(SUFFIXES_BY_FORMAT)
SUFFIXES = tuple(suffix for known in SUFFIXES_BY_FORMAT.values() for suffix in known)
UPLOAD_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Formats accepted from visitors of the web page: their decoders are the best tested."""
MAX_PIXELS = 100_000_000
"""A picture with more pixels is refused before it is decoded."""
MAX_PROPORTION = 20
"""Largest ratio of the long side to the short side; other pictures are refused."""
USUAL_BITS = (8, 10, 12, 14, 16, 24, 31)
"""Usual bit depths of cameras and scanners."""
MAX_SAMPLE_VALUE = 281
"""TIFF's tag for the largest value."""

logger = logging.getLogger(__name__)


def read_picture(
    path: Path, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = FORMATS
) -> NDArray[np.uint8]:
    """Read a picture file as (H, W, 3) uint8 RGB.  Raises ValueError naming the file."""
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
    """Decode to (H, W, 3) uint8 RGB, rotated by EXIF, alpha on white.

    Raises the ValueErrors of `open_picture`.
    """
    return to_rgb(open_picture(data, name, max_pixels, formats), name)


def open_picture(
    data: bytes,
    name: str,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
) -> Image.Image:
    """Decode a whole picture.

    Raises ValueError starting with `name` if its format, number of pixels or aspect ratio is
    refused (checked before it is decoded), or if it is broken.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_available(formats))
        if image.width * image.height > max_pixels:
            raise ValueError(
                f"it claims {image.width} x {image.height} pixels, more than {max_pixels:,}"
            )
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
    if "HEIF" not in formats:
        return formats
    if find_spec("pillow_heif") is None:
        return tuple(name for name in formats if name != "HEIF")
    import pillow_heif

    pillow_heif.register_heif_opener()
    return formats


def check_proportions(width: int, height: int) -> None:
    """Raise ValueError for an extreme aspect ratio: resized, the picture would show nothing."""
    if max(width, height) > MAX_PROPORTION * min(width, height):
        raise ValueError(
            f"{width} x {height} pixels is longer than {MAX_PROPORTION} to 1; cut it into parts"
        )


def _check_16_bit_colour(image: Image.Image) -> None:
    """Raise ValueError for 16-bit colours that use fewer bits: Pillow keeps the upper 8."""
    top = max(high for _, high in image.convert("RGB").getextrema())  # type: ignore[misc]
    if top < 64:
        raise ValueError(
            "its 16-bit colours use at most 14 bits, and Pillow keeps only the upper "
            f"{int(top).bit_length()} of these; save it with 8 bits"
        )


def to_rgb(image: Image.Image, name: str = "the picture") -> NDArray[np.uint8]:
    """Convert a picture of any mode to (H, W, 3) uint8 RGB: rotated by its EXIF, alpha on white."""
    stated = _stated_range(image)
    with suppress(Exception):  # Ignore broken EXIF.
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        grey = to_unit_range(np.asarray(image), name, stated)
        return np.repeat((grey * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _stated_range(image: Image.Image) -> int | None:
    """Return the largest pixel value that the file declares, or None."""
    if image.format == "PPM":
        return 65535  # Pillow scales a PPM of more than 8 bits to this range.
    value = getattr(image, "tag_v2", {}).get(MAX_SAMPLE_VALUE)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) and value > 0 else None


def to_unit_range(
    pixels: NDArray[Any], name: str, stated: int | None = None
) -> NDArray[np.float32]:
    """Scale the pixels of a photograph to float32 in 0..1.

    stated: the largest value that its metadata declare.  Raises ValueError starting with `name` for
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
            f"{name}: the largest value is {high:g}, below the maximum of its type; read as a "
            f"range of 0 to {top}"
        )
    return (pixels / np.float64(top)).clip(0, 1).astype(np.float32)


@cache
def _warn_once(line: str) -> None:
    """Log a warning once, even if the photograph is read in every epoch."""
    logger.warning(line)


def to_grey(image: Image.Image, name: str = "the map") -> NDArray[np.uint8]:
    """Convert a map to (H, W) uint8; a map of more than 8 bits is divided by its maximum."""
    if not image.mode.startswith(("I", "F")):
        return np.asarray(image.convert("L"))
    values = np.asarray(image).astype(np.float64)
    if not (values.min() >= 0 and np.isfinite(values.max())):
        raise ValueError(f"{name} has negative values or values that are not finite")
    grey: NDArray[np.uint8] = (values * (255 / (values.max() or 1))).round().astype(np.uint8)
    return grey


def files_below(folder: Path, suffixes: Sequence[str] = ()) -> list[Path]:
    """Return the files below a folder with one of the suffixes, sorted, without hidden files.

    suffixes: the empty default stands for all files and broken links.
    Follows links to folders.  Raises OSError for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(place)
        real = here.resolve()
        # Following a link to a parent folder would never end.
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
