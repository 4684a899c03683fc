"""A hash by which a photograph is recognised after it is encoded again."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SIDE = 8
NEAR = 10
"""Hashes that differ in at most this many of their 128 bits are of one photograph."""


def picture_hash(data: bytes) -> str:
    """Return the dHash (N. Krawetz 2013) of a picture, in both directions: 32 hexadecimal digits.

    Each bit tells whether a cell of an 8 x 8 grid gets brighter, to the right or downwards.
    """
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
    """Find the others that show the same as a known picture; return the nearest one for each.

    Both arguments map names to hashes.  A picture without contrast has a hash of zero and is left
    out.
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
