"""Uploads and results of the page: nothing outside its folder is opened, nothing stays for ever."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emlnet.app import page_files
from emlnet.app.page_files import PageFiles
from emlnet.data.drawing import draw_contours, overlay
from emlnet.inference import package


@pytest.fixture
def files(tmp_path):
    (tmp_path / "own").mkdir()
    return PageFiles(folder=tmp_path / "own")


def test_only_files_below_the_folder_are_read_and_all_others_refused_alike(
    files, photo, monkeypatch
):
    sent = shutil.copy(photo, files.folder)
    assert files.read(sent).shape == (120, 160, 3)
    (files.folder / "link.jpg").symlink_to(photo)
    (files.folder / "zero").symlink_to("/dev/zero")
    os.mkfifo(files.folder / "pipe")
    (files.folder / "large.jpg").write_bytes(bytes(101))
    monkeypatch.setattr(page_files, "MAX_BYTES", 100)
    names = ("link.jpg", "zero", "pipe", "large.jpg", "../photo.jpg", "none.jpg", "", "a\0b")
    said = set()
    for path in (
        *(f"{files.folder}/{name}" for name in names),
        *(str(photo), "/etc/passwd", "/dev/zero", "/no/such/file", None),
    ):
        with pytest.raises(ValueError, match="send a picture of at most") as error:
            files.read(path)
        said.add(str(error.value))
    assert len(said) == 1


def test_an_unusual_format_is_refused_without_the_folders_name(files):
    Image.new("L", (40, 40)).save(files.folder / "a.tif")
    with pytest.raises(ValueError, match=r"^a\.tif cannot be decoded: its format is not JPEG, PNG"):
        files.read(files.folder / "a.tif")


def test_a_result_is_drawn_from_its_files_until_it_expires(files, models, photo):
    upload = Path(shutil.copy(photo, files.folder))
    prediction = package.load(models[0]).predict(photo)
    result = files.keep(upload, prediction)
    np.testing.assert_array_equal(np.asarray(Image.open(result.png)), prediction.picture())
    np.testing.assert_array_equal(np.load(result.npy), prediction.saliency)
    assert result.png.name == "photo_smap.png"
    expected = overlay(files.read(upload), prediction.picture() / np.float32(255), 0.3)
    np.testing.assert_array_equal(files.overlay(result, 0.3, False), expected)
    lined = draw_contours(expected, prediction.saliency)
    np.testing.assert_array_equal(files.overlay(result, 0.3, True), lined)
    os.utime(result.png.parent, (0, 0))
    assert files.keep(upload, prediction).png.exists()
    with pytest.raises(ValueError, match="has expired; drop the picture again"):
        files.overlay(result, 0.5, False)


def test_the_example_is_a_picture(files):
    assert files.read(files.write_example()).shape == (480, 640, 3)
