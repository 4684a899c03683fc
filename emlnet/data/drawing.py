"""Draw maps: in colours, over their picture, with contours, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# Nine evenly spaced colours of matplotlib's inferno (CC0), dark to light.
INFERNO = np.array(
    [
        (0, 0, 4),
        (31, 12, 72),
        (85, 15, 109),
        (136, 34, 106),
        (186, 54, 85),
        (227, 89, 51),
        (249, 140, 10),
        (249, 201, 50),
        (252, 255, 164),
    ],
    dtype=np.float64,
)


def colour_map(saliency: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colour a map (H, W) in 0..1 with inferno, dark to light; return (H, W, 3) uint8."""
    position = saliency.clip(0, 1) * (len(INFERNO) - 1)
    steps = np.arange(len(INFERNO))
    channels = [np.interp(position, steps, INFERNO[:, c]) for c in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


SHARES = (0.25, 0.5, 0.75)
"""Shares of the density inside each contour of a map."""


def contour_levels(density: NDArray[np.floating], shares: Sequence[float] = SHARES) -> list[float]:
    """Return for each share the lowest value in the smallest region that holds it.

    density: (H, W), >= 0, any scale.
    """
    descending = np.sort(density, axis=None)[::-1].astype(np.float64)
    held = descending.cumsum()
    places = np.searchsorted(held, np.asarray(shares) * held[-1])
    return [float(descending[min(place, descending.size - 1)]) for place in places]


def draw_contours(picture: NDArray[np.uint8], density: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the picture (H, W, 3) with lines around 25, 50 and 75 % of its map (H, W).

    The innermost line is white, the outer ones are darker; each has a black rim.
    """
    drawn, radius = picture.copy(), max(1, min(density.shape) // 400)
    for level, shade in zip(contour_levels(density), (255, 190, 130), strict=True):
        region = Image.fromarray(density >= level).convert("L")
        for reach, colour in ((radius + 1, 0), (radius, shade)):
            outer, inner = (
                region.filter(extreme(2 * reach + 1))
                for extreme in (ImageFilter.MaxFilter, ImageFilter.MinFilter)
            )
            drawn[np.asarray(outer) != np.asarray(inner)] = colour
    return drawn


def side_by_side(
    panels: Sequence[tuple[str, NDArray[np.uint8]]], caption: str = "", height: int = 480
) -> Image.Image:
    """Join equally sized pictures (H, W, 3) in a row, `height` pixels at most, with titles.

    caption: a line below them.
    """
    first = panels[0][1]
    scale = min(1.0, height / first.shape[0])
    size = max(1, round(first.shape[1] * scale)), max(1, round(first.shape[0] * scale))
    gap, line = 8, 28
    font = ImageFont.load_default(16)
    width = max(len(panels) * (size[0] + gap) - gap, round(font.getlength(caption)) + 4)
    canvas = Image.new("RGB", (width, size[1] + line * (2 if caption else 1)), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((2, line + size[1] + 4), caption, fill="black", font=font)
    for column, (title, pixels) in enumerate(panels):
        left = column * (size[0] + gap)
        draw.text((left + 2, 4), title, fill="black", font=font)
        canvas.paste(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS), (left, line))
    return canvas


def overlay(
    picture: NDArray[np.uint8], saliency: NDArray[np.floating], strength: float = 0.5
) -> NDArray[np.uint8]:
    """Lay a map (H, W) in 0..1 over its picture (H, W, 3), opaque where salient.

    strength: 0 to 1; 0 shows only the picture.  Where the map is 0, the picture keeps its colours.
    """
    alpha = (1.7 * strength * saliency[..., None]).clip(0, 1)
    mixed: NDArray[np.float64] = picture * (1 - alpha) + colour_map(saliency) * alpha
    return mixed.round().clip(0, 255).astype(np.uint8)
