"""A contact sheet of a data set: what its photographs, fixations and density maps look like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from emlnet.atomic_files import replace_file
from emlnet.data.drawing import overlay
from emlnet.data.samples import Decoded
from shards.files.codec import decode, unpack
from shards.files.manifest import Manifest, check_piece
from shards.files.store import Store

TILE = 320
"""Width of one picture on the sheet, in pixels; its height is at most the same."""
MARGIN, CAPTION = 8, 16
PAIRS_IN_ROW = 2
DOT = 2.5
"""Radius of a fixation's dot."""


def contact_sheet(folder: Path | str, png: Path, num: int = 12, split: str | None = None) -> Path:
    """Writes `num` samples, evenly over the split, as pairs of pictures; returns the file.

    Left the photograph with a dot at each fixation, right the same under its density map.
    Raises ValueError when there is no such split.
    """
    if num < 1:
        raise ValueError(f"a sheet shows at least 1 photograph, not {num}")
    manifest, store = Manifest.load(folder), Store(folder)
    split = split or next(iter(manifest.splits))
    if split not in manifest.splits:
        raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(manifest.splits)}")
    shards, entries = manifest.splits[split].shards, manifest.splits[split].samples
    chosen = np.linspace(0, len(entries) - 1, min(num, len(entries))).round().astype(int)
    pairs = []
    for entry in (entries[int(position)] for position in chosen):
        file = shards[entry.shard].file
        piece = store.read_part(file, entry.offset, entry.length)
        check_piece(piece, entry, store.place(file))
        pairs.append(draw(decode(unpack(piece, entry.key))))
    columns = min(PAIRS_IN_ROW, len(pairs))
    rows = [pairs[start : start + columns] for start in range(0, len(pairs), columns)]
    heights = [max(pair.height for pair in row) + MARGIN for row in rows]
    width = 2 * TILE + MARGIN
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, sum(heights) + MARGIN), "white")
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, pair in enumerate(row):
            sheet.paste(pair, (MARGIN + column * (width + MARGIN), top))
        top += height
    with replace_file(png) as temporary:
        sheet.save(temporary, "PNG")
    return png


def draw(sample: Decoded) -> Image.Image:
    """One sample: photograph with fixations, the same under its density map, the name below."""
    height, width = sample.density.shape
    scale = TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    photograph = Image.fromarray(sample.image).resize(size, Image.Resampling.LANCZOS)
    density = Image.fromarray(sample.density).resize(size, Image.Resampling.BILINEAR)
    strength = np.asarray(density, np.float64) / max(1, np.asarray(density).max())
    covered = Image.fromarray(overlay(np.asarray(photograph), strength))
    pencil = ImageDraw.Draw(photograph)
    for x, y in (sample.points + 0.5) * scale:
        pencil.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill="red", outline="white")
    pair = Image.new("RGB", (2 * TILE + MARGIN, size[1] + CAPTION), "white")
    pair.paste(photograph, ((TILE - size[0]) // 2, 0))
    pair.paste(covered, (TILE + MARGIN + (TILE - size[0]) // 2, 0))
    caption = f"{sample.key}  {height} x {width}, {len(sample.points)} fixations"
    ImageDraw.Draw(pair).text((2, size[1] + 2), caption, fill="black")
    return pair
