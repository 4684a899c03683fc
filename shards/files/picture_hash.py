"""A hash of what a photograph shows, by which the same one is known after it was encoded anew."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

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


def near_duplicates(first: Sequence[str], second: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Positions in `first` and in `second` of hashes of one photograph, one pair for each second.

    Hashes of pictures without any contrast, all zeros, are left out.
    """
    known = _bits(first)
    if not len(known):
        return
    for position, bits in enumerate(_bits(second)):
        distances = np.bitwise_count(known ^ bits).sum(1)
        nearest = int(distances.argmin())
        if bits.any() and distances[nearest] <= NEAR:
            yield nearest, position


def _bits(hashes: Sequence[str]) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(-1, 2)
