"""A contact sheet of a data set: its photographs, fixations and density maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from emlnet.atomic_files import replace_file
from emlnet.data.drawing import overlay
from emlnet.data.samples import Decoded
from shards.files.manifest import Manifest
from shards.read.reader import ShardReader

PAIRS_IN_ROW = 2
TILE = 3.2
"""Width and height of one picture with its title, in inches of 100 pixels."""


def contact_sheet(folder: Path | str, png: Path, num: int = 12, split: str | None = None) -> Path:
    """Write `num` samples, evenly over the split, as pairs of pictures; return the file.

    Raises ValueError when there is no such split.
    """
    if num < 1:
        raise ValueError(f"--num must be at least 1, not {num}")
    reader = ShardReader(folder, split or next(iter(Manifest.load(folder).splits)))
    chosen = np.linspace(0, len(reader) - 1, min(num, len(reader))).round().astype(int)
    figure = draw([reader.decoded(int(position)) for position in chosen])
    with replace_file(png) as temporary:
        figure.savefig(temporary, format="png")
    return png


def draw(samples: Sequence[Decoded]) -> Figure:
    """Draw pairs: a photograph with its fixations, and the same under its density map."""
    columns = min(PAIRS_IN_ROW, len(samples))
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(2 * columns * TILE, rows * TILE), layout="constrained")
    axes = figure.subplots(rows, 2 * columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for sample, (left, right) in zip(samples, axes.reshape(-1, 2), strict=False):
        height, width = sample.density.shape
        left.imshow(sample.image)
        left.plot(*sample.points.T, "o", color="red", markeredgecolor="white", markersize=4)
        left.set_title(f"{sample.key}\n{height} x {width}, {len(sample.points)} fixations", size=8)
        right.imshow(overlay(sample.image, sample.density / max(1, sample.density.max())))
    return figure
