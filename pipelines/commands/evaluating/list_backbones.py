"""`python -m pipelines backbones`: the table of backbones."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from tyro.conf import Positional

from emlnet.backbones import BACKBONES, Backbone, find_backbone


@dataclass(frozen=True, kw_only=True)
class BackbonesCommand:
    """List the backbones: parameters, taps, cost, default weights and their licence."""

    names: Positional[tuple[str, ...]] = ()
    """Rows to list, timm:<name> too; default: the whole table."""
    size: tuple[int, int] = (480, 640)
    """Height and width in pixels at which multiply-adds are counted."""


def run(command: BackbonesCommand) -> None:
    """Print the table."""
    rows = [find_backbone(name) for name in command.names or BACKBONES]
    cells = [describe(row, command.size) for row in rows]
    print(pd.DataFrame(cells, index=[row.name for row in rows]).to_string())
    print(
        f"GMAC: 10^9 multiply-adds up to the last tap for one picture of {command.size[0]} x "
        f"{command.size[1]} pixels, or the nearest size that the network takes.\n"
        "Any other model of timm that gives feature maps: timm:<name>."
    )


def describe(row: Backbone, size: tuple[int, int]) -> dict[str, str]:
    """Return a row of the table as text."""
    num_parameters, gmac = row.cost(row.nearest_size(size))
    taps = zip(row.channels, row.reductions, strict=True)
    return {
        "parameters M": f"{num_parameters / 1e6:.1f}",
        "GMAC": f"{gmac:.1f}",
        "taps: channels/reduction": " ".join(f"{channels}/{step}" for channels, step in taps),
        "default weights": f"package {row.package}" if row.package else row.url or "none",
        "licence": row.licence or "unknown",
    }
