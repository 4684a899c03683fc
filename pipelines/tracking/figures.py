"""Results that people would rather look at than read: curves and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from emlnet.data.drawing import heat
from emlnet.data.maps import min_max, resize
from emlnet.data.samples import Decoded
from emlnet.inference.predictor import to_tensor
from emlnet.metrics.saliency_metrics import label
from emlnet.training.state import EpochReport
from emlnet.training.validation import Inputs
from shards.read.reader import SplitReader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = (180, 240)
"""Height and width in pixels of a picture in a grid."""
NUM_EXAMPLES = 6
"""Pictures that a stage shows after each epoch."""


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
        axis.set_title(f"val {label(name)}")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.suptitle(f"{title} (star: the epoch that was kept)")
    return figure


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """A picture of a split to look at.

    photograph: (H, W, 3) uint8 RGB.  truth: (H, W) uint8 density, any scale.  inputs: what the
    model is called with to predict it.
    """

    key: str
    photograph: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    inputs: Inputs


def examples(
    reader: SplitReader, num: int, prepare: Callable[[int, Decoded], Inputs]
) -> Iterator[Example]:
    """At most `num` pictures of a split, evenly chosen, the same ones each time.

    prepare: position and sample to what the model is called with.
    """
    for position in np.linspace(0, len(reader) - 1, min(num, len(reader))).round().astype(int):
        sample = reader.decoded(int(position))
        yield Example(
            key=sample.key,
            photograph=sample.image,
            truth=sample.density,
            inputs=prepare(int(position), sample),
        )


def photograph_input(sample: Decoded, device: torch.device | str = "cpu") -> Inputs:
    """The photograph as a model that sees photographs takes it: (1, 3, H, W) in 0..1."""
    return (to_tensor(sample.image)[None].to(device),)


@torch.no_grad()
def grid(model: nn.Module, chosen: Iterable[Example]) -> Image.Image:
    """Rows of photograph, ground truth and prediction, each map min-max in inferno colours.

    model: answers a log-density, or a map when its `kind` is `eml`.
    """
    model.eval()
    rows = []
    for example in chosen:
        output = model(*example.inputs).float().cpu()
        truth = torch.from_numpy(example.truth.copy())[None, None].float()
        maps = [truth, output.exp() if model.kind == "density" else output]
        rows.append((example.key, cells(example.photograph, maps)))
    return tile(rows, ("photograph", "ground truth", "prediction"))


def cells(photograph: NDArray[np.uint8], maps: Sequence[Tensor]) -> list[NDArray[np.uint8]]:
    """A row of a grid: the photograph (H, W, 3), and maps (1, 1, H, W) in inferno colours."""
    size = fit_cell(photograph.shape[:2])
    picture = resize(to_tensor(photograph)[None], size)[0].permute(1, 2, 0)
    first: NDArray[np.uint8] = (picture * 255).round().byte().numpy()
    return [first, *(heat(min_max(resize(m, size))[0, 0].numpy()) for m in maps)]


def fit_cell(size: Sequence[int]) -> tuple[int, int]:
    """(H, W) in pixels scaled so that it just fits a cell."""
    scale = min(CELL[0] / size[0], CELL[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def tile(
    rows: Sequence[tuple[str, Sequence[NDArray[np.uint8]]]], titles: Sequence[str]
) -> Image.Image:
    """Rows of pictures (h, w, 3) no larger than a cell, named on their left, under titles."""
    height, width = CELL
    font = ImageFont.load_default(14)
    gap, top = 4, 24
    left = 12 + int(max((font.getlength(name) for name, _ in rows), default=0))
    canvas = Image.new(
        "RGB", (left + len(titles) * (width + gap), top + len(rows) * (height + gap)), "white"
    )
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text((left + column * (width + gap) + 4, 4), title, fill="black", font=font)
    for row, (name, cells) in enumerate(rows):
        y = top + row * (height + gap)
        draw.text((4, y + 4), name, fill="black", font=font)
        for column, cell in enumerate(cells):
            canvas.paste(Image.fromarray(cell), (left + column * (width + gap), y))
    return canvas
