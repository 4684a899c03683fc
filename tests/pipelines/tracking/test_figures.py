"""What people look at: the same pictures each time, each in its own shape."""

from pathlib import Path

import numpy as np

from emlnet.models.encoder import Encoder, EncoderConfig
from emlnet.training.state import EpochReport
from pipelines.tracking import figures
from shards.read.reader import ShardReader


def test_the_same_pictures_are_shown_each_time(data: Path) -> None:
    reader = ShardReader(data, "train")
    chosen = [
        [sample.key for sample, _ in figures.examples(reader, 3, lambda *_: ())] for _ in range(2)
    ]
    assert chosen[0] == chosen[1] == [reader.keys[0], reader.keys[6], reader.keys[11]]


def test_predictions_have_a_named_row_a_picture(data: Path) -> None:
    reader = ShardReader(data, "val")
    encoder = Encoder(EncoderConfig(backbone="tiny", weights="none", size=(48, 64)))
    shown = figures.examples(reader, 9, lambda _, sample: figures.photograph_input(sample))
    figure = figures.predictions(encoder, shown, "encoder tiny")
    assert len(figure.axes) == 3 * len(reader) == 9
    assert [panel.get_ylabel() for panel in figure.axes[::3]] == list(reader.keys)
    assert [panel.get_title() for panel in figure.axes[:3]] == [
        "photograph", "ground truth", "prediction",
    ]  # fmt: skip
    assert figure.get_suptitle().startswith("encoder tiny\neach map from its own minimum")


def test_a_map_keeps_its_shape_and_has_its_own_scale() -> None:
    tall = np.linspace(3, 7, 200).reshape(40, 5)
    (panel,) = figures.grid([("$a$", [tall])], ["map"], "one").axes
    (image,) = panel.get_images()
    assert image.get_clim() == (3, 7)
    assert panel.get_aspect() == 1


def test_curves_mark_the_kept_epoch() -> None:
    history = [
        EpochReport(epoch=0, train_loss={}, scores={"kl": 1.0}, seconds=1, best=False),
        EpochReport(epoch=1, train_loss={"total": 2.0}, scores={"kl": 0.5}, seconds=1, best=True),
        EpochReport(epoch=2, train_loss={"total": 1.0}, scores={"kl": 0.7}, seconds=1, best=False),
    ]
    loss, kl = figures.curves(history, "encoder tiny").axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 2], [2, 1]]
    assert kl.lines[1].get_xydata().tolist() == [[1, 0.5]]
    assert kl.get_title() == "val KL"
