"""Where people looked, as a source has it; what its coordinates mean is settled here alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

NO_OBSERVER = -1
"""Of a fixation where the source does not tell who looked."""

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What the coordinates of a source mean.

    units: `pixels`, where whole numbers are centres of pixels, or `fraction` of width and height.
    origin: where they begin, `top-left` with y downwards, `bottom-left` or `centre` with y upwards.
    first_pixel: the number of the first pixel, counted from a corner: 0 or 1.
    """

    units: Literal["pixels", "fraction"] = "pixels"
    origin: Literal["top-left", "bottom-left", "centre"] = "top-left"
    first_pixel: Literal[0, 1] = 0

    def to_pixels(self, points: NDArray[np.float64], size: Size) -> NDArray[np.float64]:
        """Points (N, 2) as (x, y) in pixels, 0 at the centre of the first one, y downwards."""
        extent = np.array(size[::-1], np.float64)
        if self.units == "fraction":
            points = points * extent - 0.5
        elif self.origin == "centre":
            points = points - 0.5
        else:
            points = points - self.first_pixel
        x, y = points.T
        if self.origin == "centre":
            x, y = x + extent[0] / 2, y + extent[1] / 2
        if self.origin != "top-left":
            y = extent[1] - 1 - y
        return np.stack([x, y], axis=1)


ZERO_BASED, ONE_BASED = Frame(), Frame(first_pixel=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Gaze:
    """The fixations on one photograph, as the source has them.

    points: (N, 2) float64 (x, y) in the source's frame.  observers: (N,) int32.
    timing: (N, 2) float32 onset and duration in ms, or None.
    size: (H, W) of the photograph as the gaze file states it, or None.
    """

    points: NDArray[np.float64]
    observers: NDArray[np.int32]
    timing: NDArray[np.float32] | None = None
    size: Size | None = None
    num_empty_observers: int = 0

    @classmethod
    def of_observers(
        cls, observers: Sequence[NDArray[np.float64]], size: Size | None = None
    ) -> Gaze:
        """Gaze of observers in order, each (M, 2); one without fixations is counted."""
        numbers = np.arange(len(observers), dtype=np.int32)
        return cls(
            points=np.concatenate([np.empty((0, 2)), *observers]),
            observers=np.repeat(numbers, [len(points) for points in observers]),
            size=size,
            num_empty_observers=sum(not len(points) for points in observers),
        )


GazeReader = Callable[[Path, str], Gaze]
"""(file, its name in messages) -> gaze; raises ValueError starting with the name."""


def without_gaze_files(path: Path, name: str) -> Gaze:
    """The reader of a layout whose table has been read whole."""
    raise AssertionError(f"{name} ({path}) was to be read as gaze")
