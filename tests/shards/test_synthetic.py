from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.io
from PIL import Image
from scipy.ndimage import gaussian_filter

from shards.layouts.all_layouts import find_samples
from shards.layouts.raw_samples import read
from shards.synthetic import write_sample


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, 5, seed=3, progress=False)
    return folder


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_the_same_seed_gives_the_same_bytes(written, tmp_path):
    write_sample(tmp_path / "again", 5, seed=3, progress=False)
    assert content(tmp_path / "again") == content(written)
    write_sample(tmp_path / "other", 5, seed=4, progress=False)
    assert content(tmp_path / "other") != content(written)


def test_every_sample_reads_without_loss_four_of_five_in_train(written):
    found = find_samples(written)
    nums = {split: len(samples) for split, samples in found.splits.items()}
    assert (nums, found.faults) == ({"train": 4, "val": 1}, ())
    for raw in [sample for samples in found.splits.values() for sample in samples]:
        reading = read(found, raw)
        assert reading.density.shape == (480, 640)
        assert reading.num_points_outside == 0
        assert len(reading.sample.points) > 60


def test_the_mat_has_salicons_fields(written):
    content = scipy.io.loadmat(written / "fixations/train/synthetic_000001.mat")
    assert content["image"].item() == "synthetic_000001"
    assert content["resolution"].tolist() == [[480, 640]]
    assert content["gaze"].shape == (15, 1)
    assert content["gaze"].dtype.names == ("location", "timestamp", "fixations")


def test_the_map_is_the_blurred_binary_fixation_map(written):
    found = find_samples(written)
    sample = read(found, found.splits["train"][0]).sample
    fixated = np.zeros((480, 640))
    fixated[sample.points[:, 1], sample.points[:, 0]] = 1
    blurred = gaussian_filter(fixated, 19, mode="constant", truncate=2.5)
    pixels = np.asarray(Image.open(io.BytesIO(sample.density)))
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.corrcoef(blurred.ravel(), pixels.ravel())[0, 1] > 0.9999


def test_writing_again_leaves_the_files_alone(written):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*.*")}
    write_sample(written, 5, seed=3, progress=False)
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*.*")} == before


def test_a_folder_with_other_files_or_too_few_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"notes\.txt is not part of this sample"):
        write_sample(tmp_path, 5, progress=False)
    with pytest.raises(ValueError, match="at least 2 images"):
        write_sample(tmp_path / "one", 1, progress=False)
