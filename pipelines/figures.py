"""Results that people would rather look at than read: curves and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from emlnet.encoder import Encoder
from emlnet.maps import min_max, resize
from emlnet.model import EMLNet
from emlnet.package import predict_output
from emlnet.picture import heat
from emlnet.state import EpochReport
from shards.reader import ShardReader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = (180, 240)
"""Height and width in pixels of a picture in a grid."""


def curves(history: Sequence[EpochReport], title: str) -> Figure:
    """Loss and each validation score over the epochs, the kept epoch marked."""
    from matplotlib.figure import Figure

    names = list(history[0].scores)
    num_rows = -(-(len(names) + 1) // 3)
    figure = Figure(figsize=(10, 3 * num_rows), dpi=100, layout="constrained")
    axes = figure.subplots(num_rows, 3, squeeze=False).ravel()
    for unused in axes[len(names) + 1 :]:
        unused.remove()
    axes = axes[: len(names) + 1]
    trained = [report for report in history if report.train_loss]
    loss = [report.train_loss["total"] for report in trained]
    axes[0].plot([report.epoch for report in trained], loss, marker="o")
    axes[0].set_title("training loss")
    kept = max((report for report in history if report.best), key=lambda report: report.epoch)
    for axis, name in zip(axes[1:], names, strict=True):
        epochs = [report.epoch for report in history]
        axis.plot(epochs, [report.scores[name] for report in history], marker="o")
        axis.plot(kept.epoch, kept.scores[name], marker="*", markersize=14, linestyle="")
        axis.set_title(f"val {name}")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.suptitle(f"{title} (star: the epoch that was kept)")
    return figure


def grid(model: Encoder | EMLNet, reader: ShardReader, num: int = 6) -> Image.Image:
    """Pictures of a split, evenly chosen, in rows: photograph, ground truth, prediction."""
    rows = []
    for position in np.linspace(0, len(reader) - 1, min(num, len(reader))).round().astype(int):
        sample = reader.decoded(int(position))
        picture = torch.from_numpy(sample.image).permute(2, 0, 1)[None].float() / 255
        output = predict_output(model, picture)
        density = output.exp() if model.kind == "density" else output
        truth = torch.from_numpy(sample.density.copy())[None, None].float()
        cells = [(resize(picture, CELL)[0].permute(1, 2, 0) * 255).round().byte().numpy()]
        cells += [heat(min_max(resize(m, CELL))[0, 0].numpy()) for m in (truth, density)]
        rows.append((sample.key, cells))
    return tile(rows, ("photograph", "ground truth", "prediction"))


def tile(
    rows: Sequence[tuple[str, Sequence[NDArray[np.uint8]]]], titles: Sequence[str]
) -> Image.Image:
    """Rows of equal cells (h, w, 3), named on their left, under titles."""
    height, width = CELL
    gap, left, top = 4, 110, 24
    canvas = Image.new(
        "RGB", (left + len(titles) * (width + gap), top + len(rows) * (height + gap)), "white"
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for column, title in enumerate(titles):
        draw.text((left + column * (width + gap) + 4, 4), title, fill="black", font=font)
    for row, (name, cells) in enumerate(rows):
        y = top + row * (height + gap)
        draw.text((4, y + 4), name, fill="black", font=font)
        for column, cell in enumerate(cells):
            canvas.paste(Image.fromarray(cell), (left + column * (width + gap), y))
    return canvas
