"""Options for reading a source; imports little, since the command line needs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class CoordinateSystem:
    """Units and origin of a source's coordinates."""

    units: Literal["pixels", "fraction"] = "pixels"
    """csv: unit of x and y: pixels of the photograph, or fractions of its width and height."""
    origin: Literal["top-left", "bottom-left", "centre"] = "top-left"
    """csv: the origin of x and y; y points down from the top-left, up from the others."""
    first_pixel: Literal[0, 1] = 0
    """csv: the number of the first pixel, where pixels are counted from a corner."""

    def to_pixels(self, points: NDArray[np.float64], size: Size) -> NDArray[np.float64]:
        """Convert points (N, 2) to (x, y) pixels: 0 is the first pixel's centre, y points down."""
        extent = np.array(size[::-1])
        if self.units == "fraction":
            points = points * extent - 0.5
        elif self.origin == "centre":
            points = points - 0.5
        else:
            points = points - self.first_pixel
        if self.origin == "centre":
            points = points + extent / 2
        if self.origin != "top-left":
            points = np.stack([points[:, 0], extent[1] - 1 - points[:, 1]], axis=1)
        return points


ZERO_BASED, ONE_BASED = CoordinateSystem(), CoordinateSystem(first_pixel=1)


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Options for reading a source."""

    format: str | None = None
    """Layout of SRC: salicon, salicon-json, osie, mit1003, cat2000 or csv; default: found by the
    names of its folders."""
    splits: tuple[str, ...] = ()
    """Splits to pack; default: all that have fixations."""
    seed: int = 0
    """Seed of the 90/10 split that a data set without splits gets."""
    maps: Literal["auto", "files", "fixations"] = "auto"
    """Where density maps come from: files, fixations (blurred by --sigma), or files if there are
    any."""
    table: Path | None = None
    """csv: the table, when it is not the only .csv in SRC."""
    coordinates: Annotated[CoordinateSystem, tyro.conf.arg(name="")] = ZERO_BASED
    trust_coordinates: bool = False
    """csv: build even if x and y seem to be in other units, of another size, or swapped."""
