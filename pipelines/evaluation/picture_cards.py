"""Pictures of a report: photograph, fixations, ground truth, prediction, information gain."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from emlnet.data.drawing import heat
from emlnet.data.maps import min_max, resize
from emlnet.metrics.baselines import mixed_log_density
from pipelines.evaluation.sources import ScoredMap, SplitImage

WIDTH = 320
"""Width of a panel in pixels."""
GAIN_COLOURS = ("#00204d", "#414d6b", "#7c7b78", "#bcaf6f", "#ffea46")
"""From loss over 0 to gain: matplotlib's cividis, readable without colour vision."""


@dataclass(frozen=True, kw_only=True)
class CardPanel:
    """One picture of a card.  source: a data URI."""

    name: str
    source: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class ImageCard:
    """The panels of one image."""

    title: str
    panels: Sequence[CardPanel]


def card(
    title: str,
    shown: SplitImage,
    answers: Sequence[tuple[str, ScoredMap]],
    baseline: Tensor | None = None,
) -> ImageCard:
    """Draw an image, its fixations, each map, and where the first map gains information.

    answers: maps by title.  baseline: log-density (1, 1, H, W) over which information is gained;
    the second map when not given.
    """
    photograph, truth = shown.sample.image, shown.targets.density.cpu()
    small = _shrink(photograph)
    found = [_as_densities(row) for _, row in answers]
    over = found[1][1] if baseline is None else baseline.cpu()
    gained = truth * (found[0][1] - over) / float(np.log(2))
    panels = [
        ("photograph", small),
        ("fixations", mark(small, shown.sample.points, photograph.shape)),
        ("ground truth", heat(_small(truth))),
        *(
            (name, heat(_small(density)))
            for (name, _), (density, _) in zip(answers, found, strict=True)
        ),
        ("gain and loss", gain_colours(gained)),
    ]
    return ImageCard(title=title, panels=[_panel(*panel) for panel in panels])


def _as_densities(row: ScoredMap) -> tuple[Tensor, Tensor]:
    """Return a map as a density and a log-density; a saliency map gets 1 % uniform."""
    density = row.saliency.cpu().float()
    density = density - density.amin().clamp(max=0)
    density = density / density.sum().clamp_min(1e-12)
    if row.log_density is None:
        return density, mixed_log_density(density)
    return density, row.log_density.cpu()


def gain_colours(gained: Tensor) -> NDArray[np.uint8]:
    """Colour bits per pixel (1, 1, H, W): dark for a loss, mid-grey at 0, light for a gain.

    Returns (H, W, 3) uint8.  A square root keeps small gains visible beside large ones.
    """
    values = resize(gained.float(), _size(gained.shape))[0, 0].nan_to_num(neginf=-1e3).numpy()
    most = max(float(np.quantile(np.abs(values), 0.995)), 1e-12)
    place = 0.5 + 0.5 * np.sign(values) * np.sqrt((np.abs(values) / most).clip(0, 1))
    stops = np.linspace(0, 1, len(GAIN_COLOURS))
    colours = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in GAIN_COLOURS])
    channels = [np.interp(place, stops, colours[:, c]) for c in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def mark(
    picture: NDArray[np.uint8], points: NDArray[np.int32], size: Sequence[int]
) -> NDArray[np.uint8]:
    """Draw a dot at each fixation (x, y) of a photograph of `size` (H, W)."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    scale = picture.shape[1] / size[1]
    for x, y in (points + 0.5) * scale:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill="white", outline="black")
    return np.asarray(image)


def _size(shape: Sequence[int]) -> tuple[int, int]:
    height, width = shape[-2:]
    return max(1, round(WIDTH * height / width)), WIDTH


def _shrink(photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = _size(photograph.shape[:2])
    return np.asarray(Image.fromarray(photograph).resize((width, height)))


def _small(maps: Tensor) -> NDArray[np.float32]:
    small: NDArray[np.float32] = min_max(resize(maps, _size(maps.shape)))[0, 0].numpy()
    return small


def _panel(name: str, picture: NDArray[np.uint8]) -> CardPanel:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    text = base64.b64encode(buffer.getvalue()).decode()
    height, width = picture.shape[:2]
    return CardPanel(name=name, source=f"data:image/jpeg;base64,{text}", width=width, height=height)
