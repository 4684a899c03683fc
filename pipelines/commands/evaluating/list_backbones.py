"""`python -m pipelines backbones`: the table of backbones, to choose from."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from emlnet.backbones import BACKBONES, Backbone, find_backbone
from emlnet.backbones.cost import cost

COLUMNS = ("name", "parameters M", "GMAC", "taps: channels/reduction", "default weights", "licence")


@dataclass(frozen=True, kw_only=True)
class BackbonesCommand:
    """List the backbones: parameters, taps, cost, default weights and their licence."""

    names: Positional[tuple[str, ...]] = ()
    """Rows to list, timm:<name> too; default: the whole table."""
    size: tuple[int, int] = (480, 640)
    """Height and width in pixels at which multiply-adds are counted."""


def run(command: BackbonesCommand) -> None:
    """Prints the table."""
    rows = [find_backbone(name) for name in command.names or BACKBONES]
    lines = [COLUMNS, *(cells(row, command.size) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    print(
        f"GMAC: 10^9 multiply-adds up to the last tap for one picture of {command.size[0]} x "
        f"{command.size[1]} pixels, or the nearest size that the network takes.\n"
        "Any other model of timm that gives feature maps: timm:<name>."
    )


def cells(row: Backbone, size: tuple[int, int]) -> tuple[str, ...]:
    """A row of the table as text."""
    num_parameters, gmac = cost(row, row.nearest_size(size))
    taps = zip(row.channels, row.reductions, strict=True)
    weights = f"package {row.package}" if row.package else row.url or "none"
    return (
        row.name,
        f"{num_parameters / 1e6:.1f}",
        f"{gmac:.1f}",
        " ".join(f"{channels}/{reduction}" for channels, reduction in taps),
        weights,
        row.licence or "unknown",
    )
