from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from emlnet.data.samples import Decoded
from shards.inspect.contact_sheet import CAPTION, MARGIN, TILE, contact_sheet, draw


def test_a_fixation_is_red_on_the_left_and_dense_on_the_right():
    density = np.zeros((240, 320), np.uint8)
    density[100:140, 80:120] = 255
    sample = Decoded(
        key="train/a",
        image=np.full((240, 320, 3), 100, np.uint8),
        points=np.array([[99, 119]], np.int32),
        observers=np.array([0], np.int32),
        density=density,
    )
    pair = np.asarray(draw(sample))
    assert pair.shape == (240 + CAPTION, 2 * TILE + MARGIN, 3)
    assert pair[119, 99].tolist() == [255, 0, 0]
    assert pair[119, 150].tolist() == [100, 100, 100]
    dense, bare = pair[119, TILE + MARGIN + 99], pair[20, TILE + MARGIN + 20]
    assert dense.sum() > 400
    assert bare.sum() < 300


@pytest.mark.parametrize(("num", "rows"), [(1, 1), (4, 2), (7, 4), (99, 4)])
def test_a_sheet_has_two_samples_in_a_row(packed, tmp_path, num, rows):
    png = contact_sheet(packed, tmp_path / "sheet.png", num)
    width, height = Image.open(png).size
    assert height == MARGIN + rows * (240 + CAPTION + MARGIN)
    assert width == MARGIN + min(num, 2) * (2 * TILE + 2 * MARGIN)
    assert list(tmp_path.glob("*.tmp")) == []


def test_an_unknown_split_is_named(packed, tmp_path):
    with pytest.raises(ValueError, match="no split 'test'; it has train, val"):
        contact_sheet(packed, tmp_path / "sheet.png", split="test")


def test_a_changed_shard_is_named(packed, tmp_path, change_byte):
    change_byte(packed / "val-000000.tar", 700)
    with pytest.raises(ValueError, match=r"val-000000\.tar has changed: .* sample val/v0"):
        contact_sheet(packed, tmp_path / "sheet.png", split="val")
