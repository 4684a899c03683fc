"""Figures of reports, readable without colour vision: inline SVG, and pictures as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from emlnet.metrics.baselines import mixed_log_density
from emlnet.metrics.calibration import LEVELS
from emlnet.metrics.saliency_metrics import METRICS
from pipelines.evaluation.evaluate import COVERAGES
from pipelines.evaluation.score_table import ScoreTable
from pipelines.evaluation.sources import (
    BASELINES,
    CENTRE,
    OTHER_IMAGE_BASELINE,
    UNIFORM,
    ScoredMap,
    SplitImage,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours; lightness and markers differ too.
MODEL_COLOUR, BASELINE_COLOUR = "#0072b2", "#e69f00"

Panels = list[tuple[str, str]]
"""Pictures of one image, each a name and a data URI."""


def label(metric: str, rules: bool = False, arrow: bool = True) -> str:
    """Return a metric's label, with its rule book and an arrow to the better side."""
    row = METRICS[metric]
    book = f" ({metric.partition('_')[0]})" if rules else ""
    return f"{row.label}{book}{f' {row.arrow}' if arrow else ''}"


def boxes(table: ScoreTable, metric: str) -> str:
    """Draw a box plot of a metric over the images, one box per model, without weak baselines."""
    columns = {
        m: _finite(table.of(m)[metric])
        for m in table.models
        if m not in (UNIFORM, OTHER_IMAGE_BASELINE)
    }
    columns = {model: values for model, values in columns.items() if len(values)}
    figure, axes = _figure(4.6, 0.7 + 0.33 * len(columns))
    drawn = axes.boxplot(
        list(columns.values()),
        tick_labels=list(columns),
        orientation="horizontal",
        patch_artist=True,
        showmeans=True,
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black"},
        medianprops={"color": "black"},
    )
    for model, box in zip(columns, drawn["boxes"], strict=True):
        box.set(facecolor=BASELINE_COLOUR if model in BASELINES else MODEL_COLOUR, alpha=0.75)
    axes.invert_yaxis()
    axes.set_title(label(metric, rules=True), loc="left")
    return svg(figure)


def calibration(table: ScoreTable) -> str | None:
    """Draw the calibration of the first model: share of fixations over share of the density.

    Returns None if the model's maps are not densities.
    """
    main = table.models[0]
    if COVERAGES[0] not in table.estimates[main]:
        return None
    figure, axes = _figure(4.6, 4.2)
    axes.plot([0, 1], [0, 1], ":", color="black", label="calibrated")
    for model, style, colour in ((main, "-o", MODEL_COLOUR), (CENTRE, "--s", BASELINE_COLOUR)):
        if COVERAGES[0] in table.estimates.get(model, {}):
            found = [table.estimates[model][name] for name in COVERAGES]
            ends = [[e.mean - e.low for e in found], [e.high - e.mean for e in found]]
            means = [e.mean for e in found]
            axes.errorbar(LEVELS, means, ends, fmt=style, color=colour, capsize=3, label=model)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of the density", ylabel="share of fixations")
    axes.legend(loc="lower right")
    return svg(figure)


def gains_by_image(gains: pd.Series[float], metric: str) -> str:
    """Draw the gain of one model over another on each image, ascending."""
    figure, axes = _figure(4.6, 3.2)
    ordered = np.sort(_finite(gains))
    place = np.arange(1, len(ordered) + 1)
    for name, mark, colour in (("first", "o", MODEL_COLOUR), ("second", "s", BASELINE_COLOUR)):
        chosen = (ordered > 0) == (name == "first")
        axes.plot(place[chosen], ordered[chosen], mark, color=colour, label=f"{name} is better")
    axes.axhline(0, color="black", linewidth=1)
    axes.set(xlabel="images", ylabel=f"gain in {label(metric, rules=True, arrow=False)}")
    axes.legend(loc="upper left")
    return svg(figure)


def _finite(values: pd.Series[float]) -> NDArray[np.float64]:
    numbers = np.asarray(values, np.float64)
    return numbers[np.isfinite(numbers)]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg(figure: Figure, **options: Any) -> str:
    """Return the figure as an SVG element; options: of `savefig`."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # Keep text as text, and make ids reproducible.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, **options)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def draw_panels(
    split_image: SplitImage,
    answers: Sequence[tuple[str, ScoredMap]],
    baseline: Tensor | None = None,
) -> Panels:
    """Draw an image, its fixations, each map, and the first map's information gain by pixel.

    answers: titles and maps.  baseline: log-density (1, 1, H, W) that the gain is relative to;
    default: the second map.
    """
    photograph, truth = split_image.sample.image, split_image.targets.density.cpu()
    found = [_as_densities(row) for _, row in answers]
    reference = found[1][1] if baseline is None else baseline.cpu()
    gain = (truth * (found[0][1] - reference)).nan_to_num(neginf=-1e3)[0, 0].numpy()
    # The square root keeps small gains visible beside large ones.
    gain = np.sign(gain) * np.sqrt(np.abs(gain))
    limit = max(float(np.quantile(np.abs(gain), 0.995)), 1e-6)
    return [
        ("photograph", _panel(photograph)),
        ("fixations", _panel(photograph, split_image.sample.points)),
        ("ground truth", _panel(truth[0, 0].numpy(), cmap="inferno")),
        *(
            (name, _panel(density[0, 0].numpy(), cmap="inferno"))
            for (name, _), (density, _) in zip(answers, found, strict=True)
        ),
        ("gain and loss", _panel(gain, cmap="cividis", vmin=-limit, vmax=limit)),
    ]


def _as_densities(row: ScoredMap) -> tuple[Tensor, Tensor]:
    """Return a map as a density and a log-density; a saliency map gets 1 % uniform."""
    density = row.saliency.cpu().float()
    density = density - density.amin().clamp(max=0)
    density = density / density.sum().clamp_min(1e-12)
    if row.log_density is None:
        return density, mixed_log_density(density)
    return density, row.log_density.cpu()


def _panel(
    values: NDArray[np.generic], points: NDArray[np.int32] | None = None, **colours: Any
) -> str:
    """Draw a picture (H, W, 3) or map (H, W), with a dot at each point (x, y), as a data URI."""
    from matplotlib.figure import Figure

    height, width = values.shape[:2]
    figure = Figure(figsize=(3.2, max(0.1, 3.2 * height / width)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(values, aspect="auto", **colours)
    if points is not None:
        axes.scatter(points[:, 0], points[:, 1], s=16, color="white", edgecolors="black")
    axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": 85})
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
