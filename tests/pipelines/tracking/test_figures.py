"""What people look at: the same pictures each time, each in its own shape."""

from pathlib import Path

import numpy as np
import torch

from emlnet.models.encoder import Encoder, EncoderConfig
from pipelines.tracking import figures
from shards.read.reader import ShardReader


def test_the_same_pictures_are_shown_each_time(data: Path) -> None:
    reader = ShardReader(data, "train")
    chosen = [
        [example.key for example in figures.examples(reader, 3, lambda *_: ())] for _ in range(2)
    ]
    assert chosen[0] == chosen[1] == [reader.keys[0], reader.keys[6], reader.keys[11]]


def test_a_grid_has_a_row_a_picture_and_equal_size_for_any_model(data: Path) -> None:
    reader, sizes = ShardReader(data, "val"), set()
    for seed in range(2):
        torch.manual_seed(seed)
        encoder = Encoder(EncoderConfig(backbone="tiny", weights="none", size=(48, 64)))
        shown = figures.examples(reader, 9, lambda _, sample: figures.photograph_input(sample))
        sizes.add(figures.grid(encoder, shown).size)
    ((width, height),) = sizes
    assert width > 3 * figures.CELL[1]
    assert height // figures.CELL[0] == len(reader) == 3


def test_a_tall_picture_keeps_its_shape() -> None:
    assert figures.fit_cell((480, 640)) == (180, 240)
    assert figures.fit_cell((640, 320)) == (180, 90)
    assert figures.fit_cell(np.zeros((100, 4000)).shape) == (6, 240)
