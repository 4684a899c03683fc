"""Fixations as a source has them, and what their coordinates mean."""

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
class CoordinateSystem:
    """The meaning of a source's coordinates.

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


def doubt(gaze: Sequence[tuple[NDArray[np.float64], Size]], system: CoordinateSystem) -> str | None:
    """The reason why gaze can hardly be in this system of coordinates; None where there is none.

    gaze: of each photograph the points (N, 2) as in the source, and the size (H, W).
    """
    shown = [(points[np.isfinite(points).all(1)], size) for points, size in gaze]
    shown = [(points, size) for points, size in shown if len(points)]
    if not shown:
        return None
    raw = np.concatenate([points for points, _ in shown])
    num, centred = len(raw), system.origin == "centre"
    if system.units == "pixels":
        small = (abs(raw) <= 1 if centred else (raw >= 0) & (raw <= 1)).all(1).sum()
        if 2 * small >= num and (num >= 10 or (not centred and (raw % 1 != 0).any())):
            return (
                f"x and y of {small} of {num} fixations lie in 0..1; "
                "--units fraction is for parts of the width and height"
            )

    def places(swap: bool) -> NDArray[np.float64]:
        return np.concatenate(
            [
                (system.to_pixels(points[:, ::-1] if swap else points, size) + 0.5) / size[::-1]
                for points, size in shown
            ]
        )

    def num_outside(place: NDArray[np.float64]) -> int:
        return int(((place < 0) | (place >= 1)).any(1).sum())

    place = places(swap=False)
    outside, swapped = num_outside(place), num_outside(places(swap=True))
    span = f"x from {raw[:, 0].min():g} to {raw[:, 0].max():g}, y from {raw[:, 1].min():g} to " + (
        f"{raw[:, 1].max():g}"
    )
    ways_out = (
        "are they pixels of these photographs? Convert degrees, pixels of the screen or of "
        "another size first; see --units and --origin"
    )
    if outside >= max(2, 0.05 * num) and 5 * swapped <= outside:
        return (
            f"{outside} of {num} fixations lie outside their photographs, {swapped} if x and y "
            f"are exchanged ({span}); exchange the columns' names"
        )
    if num >= 4 and 2 * outside > num:
        return f"{outside} of {num} fixations lie outside their photographs ({span}); {ways_out}"
    low, high = np.percentile(place, [5, 95], axis=0)
    if num >= 8 and (high - low < 0.15).all():
        return f"nearly all of {num} fixations lie in one small part ({span}); {ways_out}"
    if num >= 20 and (np.percentile(place, 99, axis=0) < 0.6).all() and (low < 0.3).all():
        return f"no fixation lies in the right or lower 40 % ({span}); {ways_out}"
    return None


ZERO_BASED, ONE_BASED = CoordinateSystem(), CoordinateSystem(first_pixel=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class RawFixations:
    """The fixations on one photograph, as the source has them.

    points: (N, 2) float64 (x, y) in the source's coordinates.  observers: (N,) int32.
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
    ) -> RawFixations:
        """RawFixations of observers in order, each (M, 2); one without fixations is counted."""
        numbers = np.arange(len(observers), dtype=np.int32)
        return cls(
            points=np.concatenate([np.empty((0, 2)), *observers]),
            observers=np.repeat(numbers, [len(points) for points in observers]),
            size=size,
            num_empty_observers=sum(not len(points) for points in observers),
        )

    @classmethod
    def of_mask(cls, fixated: NDArray[np.bool_]) -> RawFixations:
        """The fixated pixels of a mask (H, W), whose observers are not known."""
        y, x = np.nonzero(fixated)
        return cls(
            points=np.stack([x, y], axis=1).astype(np.float64),
            observers=np.full(len(x), NO_OBSERVER, np.int32),
            size=(fixated.shape[0], fixated.shape[1]),
        )


FixationReader = Callable[[Path, str], RawFixations]
"""(file, its name in messages) -> gaze; raises ValueError starting with the name."""


def without_gaze_files(path: Path, name: str) -> RawFixations:
    """The reader of a layout that reads all gaze from one table."""
    raise AssertionError(f"{name} ({path}) was to be read as gaze")
