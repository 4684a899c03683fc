"""A hash of what a photograph shows, by which the same one is known after it was encoded anew."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SIDE = 8
NEAR = 10
"""Bits, of 128, by which the hashes of one photograph differ at most."""


def picture_hash(data: bytes) -> str:
    """32 hexadecimal digits: in a grid of 8 x 8 cells, whether it gets brighter to the right, and
    downwards (dHash, N. Krawetz 2013, in both directions)."""
    image = Image.open(io.BytesIO(data))
    image.draft("L", (16 * SIDE, 16 * SIDE))  # A JPEG is decoded at a fraction of its size.
    grey = ImageOps.exif_transpose(image).convert("L").convert("F")
    across = np.asarray(grey.resize((SIDE + 1, SIDE), Image.Resampling.BOX))
    down = np.asarray(grey.resize((SIDE, SIDE + 1), Image.Resampling.BOX))
    brighter = [across[:, 1:] > across[:, :-1], down[1:] > down[:-1]]
    return np.packbits(np.stack(brighter)).tobytes().hex()


def near_duplicates(
    known: Mapping[str, str | None], others: Mapping[str, str | None]
) -> dict[str, str]:
    """Return the name of the nearest known picture for each other one that shows the same.

    Both map names to hashes; pictures without contrast, with hashes of zeros, are left out.
    """
    bits = {name: _bits(picture) for name, picture in known.items() if picture}
    names, table = list(bits), np.array(list(bits.values()))
    found = {}
    for name, picture in others.items():
        if names and picture and int(picture, 16):
            distances = np.bitwise_count(table ^ _bits(picture)).sum(1)
            nearest = int(distances.argmin())
            if distances[nearest] <= NEAR:
                found[name] = names[nearest]
    return found


def _bits(picture: str) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex(picture), np.uint64)
