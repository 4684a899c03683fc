"""Uploads and results of the page: nothing outside its folder is opened, nothing stays for ever."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from emlnet.app import page_files
from emlnet.app.page_files import PageFiles, read_upload
from emlnet.data.drawing import draw_contours, overlay
from emlnet.inference import package


@pytest.fixture
def files(tmp_path):
    (tmp_path / "own").mkdir()
    return PageFiles(folder=tmp_path / "own")


def test_a_file_below_the_folder_is_an_upload(files, photo):
    sent = shutil.copy(photo, files.folder)
    assert read_upload(files.find_upload(sent)).shape == (120, 160, 3)


def test_anything_else_is_refused_with_the_same_words(files, photo, monkeypatch):
    (files.folder / "link.jpg").symlink_to(photo)
    (files.folder / "zero").symlink_to("/dev/zero")
    os.mkfifo(files.folder / "pipe")
    (files.folder / "large.jpg").write_bytes(bytes(101))
    monkeypatch.setattr(page_files, "MAX_BYTES", 100)
    names = ("link.jpg", "zero", "pipe", "large.jpg", "../photo.jpg", "none.jpg", "", "a\0b")
    sent = [str(files.folder / name) for name in names]
    said = set()
    for path in (*sent, str(photo), "/etc/passwd", "/dev/zero", "/no/such/file", None):
        with pytest.raises(ValueError, match="send a picture of at most") as error:
            files.find_upload(path)
        said.add(str(error.value))
    assert len(said) == 1


def test_an_unusual_format_is_refused_without_the_folders_name(files):
    Image.new("L", (40, 40)).save(files.folder / "a.tif")
    with pytest.raises(ValueError, match=r"^a\.tif cannot be decoded: its format is not JPEG, PNG"):
        read_upload(files.find_upload(str(files.folder / "a.tif")))


def test_a_result_is_drawn_from_its_files(files, models, photo):
    upload = files.find_upload(shutil.copy(photo, files.folder))
    prediction = package.load(models[0]).predict(photo)
    result = files.keep(upload, prediction)
    np.testing.assert_array_equal(np.asarray(Image.open(result.png)), prediction.picture())
    np.testing.assert_array_equal(np.load(result.npy), prediction.saliency)
    assert result.png.name == "photo_smap.png"
    expected = overlay(read_upload(upload), prediction.picture() / np.float32(255), 0.3)
    np.testing.assert_array_equal(result.overlay(0.3, False), expected)
    lined = draw_contours(expected, prediction.saliency)
    np.testing.assert_array_equal(result.overlay(0.3, True), lined)


def test_results_expire(files, models, photo):
    prediction = package.load(models[0]).predict(photo)
    upload = files.find_upload(shutil.copy(photo, files.folder))
    old = files.keep(upload, prediction)
    os.utime(old.png.parent, (0, 0))
    new = files.keep(upload, prediction)
    assert new.png.exists()
    with pytest.raises(ValueError, match="has expired; drop the picture again"):
        old.overlay(0.5, False)


def test_the_example_is_a_picture(files):
    assert read_upload(files.find_upload(str(files.write_example()))).shape == (240, 320, 3)
