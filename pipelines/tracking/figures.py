"""Figures of runs: curves over the epochs, and grids of predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emlnet.data.samples import Decoded
from emlnet.inference.predictor import to_tensor
from emlnet.metrics.saliency_metrics import label
from emlnet.training.state import EpochReport
from emlnet.training.validation import Inputs
from shards.read.reader import ShardReader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_EXAMPLES = 6
"""Pictures that a stage shows after each epoch."""

Example = tuple[Decoded, Inputs]
"""A sample to draw, and the model's inputs for it."""
Row = tuple[str, Sequence[NDArray[np.generic]]]
"""A row's name, and its pictures (H, W, 3) uint8 and maps (H, W)."""


def curves(history: Sequence[EpochReport], title: str) -> Figure:
    """Draw the loss and each validation score over the epochs, and mark the kept epoch."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    kept = max((report for report in history if report.best), key=lambda report: report.epoch)
    losses = {r.epoch: r.train_loss["total"] for r in history if r.train_loss}
    panels = {"training loss": losses}
    for name in history[0].scores:
        panels[f"val {label(name)}"] = {report.epoch: report.scores[name] for report in history}
    num_rows = -(-len(panels) // 3)
    figure = Figure(figsize=(10, 3 * num_rows), layout="constrained")
    figure.suptitle(f"{title} (star: the epoch that was kept)")
    for place, (name, values) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(num_rows, 3, place, title=name, xlabel="epoch")
        axes.plot(list(values), list(values.values()), marker="o")
        if kept.epoch in values:
            axes.plot(kept.epoch, values[kept.epoch], marker="*", markersize=14)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return figure


def examples(
    reader: ShardReader, num: int, prepare: Callable[[int, Decoded], Inputs]
) -> Iterator[Example]:
    """Yield at most `num` samples of a split, evenly spaced, the same ones each time.

    prepare: makes the model's inputs from position and sample.
    """
    for position in np.linspace(0, len(reader) - 1, min(num, len(reader))).round().astype(int):
        sample = reader.decoded(int(position))
        yield sample, prepare(int(position), sample)


def photograph_input(sample: Decoded, device: torch.device | str = "cpu") -> Inputs:
    """Return the photograph as a model's input: (1, 3, H, W) in [0, 1]."""
    return (to_tensor(sample.image)[None].to(device),)


@torch.no_grad()
def predictions(model: nn.Module, chosen: Iterable[Example], title: str) -> Figure:
    """Draw rows of photograph, ground truth and prediction.

    model: returns a log-density, or a saliency map if its `kind` is `eml`.
    """
    model.eval()
    rows: list[Row] = []
    for sample, inputs in chosen:
        output = model(*inputs).float().cpu()[0, 0]
        predicted = (output.exp() if model.kind == "density" else output).numpy()
        rows.append((sample.key, (sample.image, sample.density, predicted)))
    return grid(rows, ("photograph", "ground truth", "prediction"), title)


def grid(rows: Sequence[Row], columns: Sequence[str], title: str) -> Figure:
    """Draw pictures and maps in named rows and columns.

    Each map is coloured from its own minimum to its maximum.
    """
    from matplotlib.figure import Figure

    size = 2.6 * len(columns) + 0.3, 2 * len(rows) + 0.7
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"{title}\neach map from its own minimum (dark) to its maximum", size=10)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        line[0].set_ylabel(name, parse_math=False)
        for panel, picture in zip(line, pictures, strict=True):
            panel.imshow(picture, cmap="inferno")
            panel.set(xticks=[], yticks=[])
    for panel, column in zip(axes[0], columns, strict=True):
        panel.set_title(column, size=10)
    return figure
