from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from emlnet.data.samples import Decoded
from shards.inspect.contact_sheet import contact_sheet, draw


def test_a_fixation_is_a_dot_on_the_left_and_dense_on_the_right():
    density = np.zeros((240, 320), np.uint8)
    density[100:140, 80:120] = 255
    sample = Decoded(
        key="train/a",
        image=np.full((240, 320, 3), 100, np.uint8),
        points=np.array([[99, 119]], np.int32),
        observers=np.array([0], np.int32),
        density=density,
    )
    left, right = draw([sample]).axes
    assert left.lines[0].get_xydata().tolist() == [[99, 119]]
    shown = right.images[0].get_array()
    assert shown[119, 99].sum() > 400
    assert shown[20, 20].sum() == 300


@pytest.mark.parametrize(("num", "size"), [(1, (640, 320)), (4, (1280, 640)), (99, (1280, 1280))])
def test_a_sheet_has_two_samples_in_a_row(packed, tmp_path, num, size):
    assert Image.open(contact_sheet(packed, tmp_path / "sheet.png", num)).size == size
    assert [path.name for path in tmp_path.glob("*.png")] == ["sheet.png"]


def test_what_cannot_be_shown_is_named(packed, tmp_path, change_byte):
    with pytest.raises(ValueError, match="no split 'test'; it has train, val"):
        contact_sheet(packed, tmp_path / "sheet.png", split="test")
    change_byte(packed / "val-000000.tar", 700)
    with pytest.raises(ValueError, match=r"val-000000\.tar has changed: .* sample val/v0"):
        contact_sheet(packed, tmp_path / "sheet.png", split="val")
