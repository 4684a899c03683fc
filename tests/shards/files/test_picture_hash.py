from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from shards.files.picture_hash import near_duplicates, picture_hash
from shards.inspect.stats import warnings
from tests.shards.conftest import pack, pack_tiny


def photograph(seed, size=(96, 128)):
    """A smooth picture with noise, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC), np.float64)
    return Image.fromarray((smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "again",
    [
        lambda image: encoded(image, quality=40),
        lambda image: encoded(image, "PNG"),
        lambda image: encoded(image.convert("L")),
        lambda image: encoded(image.resize((64, 48)), quality=85),
        lambda image: encoded(image, "TIFF"),
        lambda image: encoded(
            image.transpose(Image.Transpose.ROTATE_90),
            exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
        ),
    ],
)
def test_a_photograph_is_known_after_it_was_encoded_anew(again):
    known = {str(seed): picture_hash(encoded(photograph(seed))) for seed in range(20)}
    assert near_duplicates(known, {"again": picture_hash(again(photograph(7)))}) == {"again": "7"}


def test_other_photographs_and_blank_ones_are_not_taken_for_one():
    hashes = {str(seed): picture_hash(encoded(photograph(seed))) for seed in range(200)}
    blank = {"blank": picture_hash(encoded(Image.new("RGB", (64, 48)))), "unknown": None}
    known = {name: hashes[name] for name in hashes if int(name) < 100}
    others = {name: hashes[name] for name in hashes if int(name) >= 100}
    assert near_duplicates(known | blank, others | blank) == {}
    assert near_duplicates({}, others) == {}


@pytest.fixture
def leaking(tiny):
    """Two photographs of val, one of them train's at another quality."""
    for index in range(7):
        tiny.put(f"images/train/t{index}.jpg", encoded(photograph(index, (30, 40))))
    tiny.put("images/val/v0.jpg", encoded(photograph(3, (30, 40)), quality=60))
    tiny.put("images/val/v1.jpg", encoded(photograph(50, (30, 40))))
    return tiny


def test_a_photograph_in_train_and_val_is_told(leaking, out):
    manifest = pack_tiny(leaking, out)
    assert any(
        "1 of 2 photographs of val are also in train" in warning
        and "val/v0 shows train/t3" in warning
        and "--drop-duplicates" in warning
        for warning in warnings(manifest)
    )


def test_it_is_left_out_of_val_when_asked_and_recorded(leaking, out):
    manifest = pack_tiny(leaking, out, drop_duplicates=True)
    assert [entry.key for entry in manifest.splits["val"].samples] == ["val/v1"]
    assert len(manifest.splits["train"].samples) == 7
    ((file, reason),) = [(left.file, left.reason) for left in manifest.dropped.samples]
    assert (file, reason) == ("images/val/v0.jpg", "shows the same as images/train/t3.jpg")
    assert not any("also in train" in warning for warning in warnings(manifest))
    assert pack_tiny(leaking, out, drop_duplicates=True) == manifest


def test_a_val_that_train_shows_whole_is_an_error(leaking, out):
    leaking.put("images/val/v1.jpg", encoded(photograph(4, (30, 40)), quality=60))
    with pytest.raises(ValueError, match="no photographs left in val: all are also in train"):
        pack(leaking.path, out, drop_duplicates=True)
