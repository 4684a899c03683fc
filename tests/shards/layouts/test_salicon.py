from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.io
from PIL import Image

from shards.layouts.all_layouts import find_samples
from shards.layouts.raw_samples import IncompleteSampleError, read
from shards.layouts.source_options import SourceOptions
from tests.shards.conftest import encode_mat, encode_png
from tests.shards.files.test_mat_files import write_hdf5

LEVELS = np.arange(1200, dtype=np.float64).reshape(30, 40) / 1199


def walk_splits(path, *splits, seed=0):
    return find_samples(path, SourceOptions(splits=splits, seed=seed))


def read_one(raw):
    folder = find_samples(raw.path)
    (sample,) = folder.splits["train"]
    return read(folder, sample, folder.layout.sigma)


def save(raw, file, values):
    """Put a picture, or a .mat of one matrix, in the place of a file of the same stem."""
    path = raw.path / file
    for old in path.parent.glob(f"{path.stem}.*"):
        old.unlink()
    if path.suffix == ".mat":
        scipy.io.savemat(path, {"map": values})
    else:
        Image.fromarray(values).save(path)


def test_a_photograph_is_kept_byte_for_byte_and_a_map_pixel_for_pixel(raw):
    raw.add("train/a")
    sample = read_one(raw).sample
    assert sample.key == "train/a"
    assert sample.image == (raw.path / "images/train/a.jpg").read_bytes()
    kept, file = Image.open(io.BytesIO(sample.density)), Image.open(raw.path / "maps/train/a.png")
    np.testing.assert_array_equal(np.asarray(kept), np.asarray(file))


@pytest.mark.parametrize("shape", [(0, 2), (0, 0), (1, 0), (0,)])
def test_an_empty_observer_is_counted_and_keeps_its_number(raw, shape):
    raw.add("train/a", [[[5, 6]], np.empty(shape), [[7, 8], [9, 9]]])
    reading = read_one(raw)
    assert reading.num_empty_observers == 1
    assert reading.sample.observers.tolist() == [0, 2, 2]
    assert reading.sample.points.tolist() == [[4, 5], [6, 7], [8, 8]]


@pytest.mark.parametrize("kind", ["float64", "float32", "uint16", "uint8", "int32"])
def test_one_based_gaze_of_any_number_type_becomes_zero_based(raw, kind):
    raw.add("train/a", [np.array([[1, 1], [40, 30]], kind)])
    sample = read_one(raw).sample
    assert sample.points.tolist() == [[0, 0], [39, 29]]
    assert sample.points.dtype == sample.observers.dtype == np.int32


def test_a_single_observer_with_a_single_fixation_is_read(raw):
    raw.add("train/a", [[[2, 3]]])
    assert read_one(raw).sample.points.tolist() == [[1, 2]]


def test_points_outside_after_rounding_are_dropped_and_counted(raw):
    points = [[0.5, 1], [40.49, 30.49], [0.49, 1], [40.5, 1], [1, 0], [1, 31], [np.nan, 3], [-9, 3]]
    raw.add("train/a", [points])
    reading = read_one(raw)
    assert reading.sample.points.tolist() == [[0, 0], [39, 29]]
    assert reading.num_points_outside == 6


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("images/train/a.jpg", b"", "cannot be decoded"),
        ("images/train/a.jpg", b"GIF, it says", "cannot be decoded"),
        ("maps/train/a.png", b"\x89PNG nothing", "cannot be decoded"),
        ("maps/train/a.png", encode_png(np.zeros((30, 40), np.uint8)), "a density map of zeros"),
        ("maps/train/a.png", encode_png(np.ones((30, 41), np.uint8)), "is 30 x 41"),
        ("fixations/train/a.mat", b"MATLAB" * 50, r"is not a \.mat file"),
        ("fixations/train/a.mat", encode_mat([[[1, 1]]], (31, 40)), "is 31 x 40"),
        ("fixations/train/a.mat", encode_mat([np.ones((4, 3))]), r"shape \(4, 3\), expected"),
        ("fixations/train/a.mat", encode_mat([]), "no fixations"),
        ("fixations/train/a.mat", encode_mat([np.empty((0, 2)), [[99, 99]]]), "no fixations"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(raw, file, content, reason):
    raw.add("train/a")
    raw.put(file, content)
    with pytest.raises(IncompleteSampleError, match=reason) as error:
        read_one(raw)
    assert file in str(error.value)


@pytest.mark.parametrize("length", [20, 900])
def test_a_cut_jpeg_is_named(raw, length):
    raw.add("train/a")
    raw.put("images/train/a.jpg", (raw.path / "images/train/a.jpg").read_bytes()[:length])
    with pytest.raises(IncompleteSampleError, match=r"images/train/a\.jpg"):
        read_one(raw)


def test_folder_names_may_be_spelt_in_any_case(raw):
    raw.add("train/a")
    for name, other in (("images", "Images"), ("fixations", "FIXATIONS"), ("maps", "Maps")):
        (raw.path / name).rename(raw.path / other)
    (raw.path / "Images/train").rename(raw.path / "Images/Train")
    (raw.path / "Images/Train/a.jpg").rename(raw.path / "Images/Train/a.JPG")
    assert read_one(raw).sample.key == "train/a"


def test_a_flat_folder_gets_a_seeded_split(raw):
    for index in range(20):
        raw.add(f"s{index:02d}")
    first, again, other = (walk_splits(raw.path, seed=seed) for seed in (3, 3, 4))
    assert [len(first.splits[split]) for split in ("train", "val")] == [18, 2]
    assert first.splits == again.splits != other.splits
    assert first.split_seed == 3
    assert {sample.key[:5] for sample in first.splits["train"]} == {"train"}


def test_splits_with_images_only_are_left_out_and_told(raw):
    raw.add("train/a")
    raw.put("images/test/b.jpg", b"")
    found = find_samples(raw.path)
    assert list(found.splits) == ["train"]
    assert found.unlabelled == ("test",)


def test_only_the_wanted_splits_are_found(tiny):
    assert list(walk_splits(tiny.path, "val").splits) == ["val"]
    with pytest.raises(ValueError, match="no split 'dev'; it has train, val"):
        walk_splits(tiny.path, "dev")


def test_what_a_folder_misses_is_named(raw):
    with pytest.raises(ValueError, match="raw is not a folder"):
        find_samples(raw.path)
    raw.path.mkdir()
    with pytest.raises(ValueError, match="has no folder images/"):
        find_samples(raw.path, SourceOptions(format="salicon"))
    for name in ("images", "fixations", "maps"):
        (raw.path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="raw holds no samples"):
        find_samples(raw.path)
    for name in ("images", "fixations", "maps"):
        (raw.path / name / "train").mkdir()
    with pytest.raises(ValueError, match=r"images/train is empty: expected \.jpg"):
        find_samples(raw.path)


@pytest.mark.parametrize(
    ("file", "reason"),
    [("images/train/a.png", "same name"), ("images/b.jpg", "both images and folders")],
)
def test_a_photograph_that_may_be_two_is_refused(raw, file, reason):
    raw.add("train/a")
    raw.put(file, b"")
    with pytest.raises(ValueError, match=reason):
        find_samples(raw.path)


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("images/train/t3.jpg", "have no photograph"),
        ("fixations/train/t3.mat", "have no fixations"),
        ("maps/train/t3.png", "have no density map"),
    ],
)
def test_a_sample_that_misses_a_file_is_a_fault(tiny, lost, reason):
    (tiny.path / lost).unlink()
    found = find_samples(tiny.path)
    (fault,) = found.faults
    assert fault.reason == reason
    assert "train/t3" in fault.file
    assert found.num_images == 9


def test_the_fingerprint_changes_with_a_file(tiny):
    before = find_samples(tiny.path).fingerprint
    assert find_samples(tiny.path).fingerprint == before
    tiny.add("train/t0", seed=77)
    assert find_samples(tiny.path).fingerprint != before


def test_gaze_of_matlab_7_3_is_read(raw):
    raw.add("train/a")
    observers = [np.array([[1.0, 1.0], [40.0, 30.0]]), np.empty((0, 2)), np.array([[3.0, 4.0]])]
    content = {"resolution": np.array([[30.0, 40.0]]), "gaze": {"fixations": observers}}
    write_hdf5(raw.path / "fixations/train/a.mat", content)
    sample = read_one(raw).sample
    assert sample.points.tolist() == [[0, 0], [39, 29], [2, 3]]
    assert sample.observers.tolist() == [0, 0, 2]


@pytest.mark.parametrize(("suffix", "white"), [("png", 1), ("png", 255), ("bmp", 255), ("tif", 1)])
def test_binary_pictures_of_fixated_pixels_are_read(raw, suffix, white):
    raw.add("train/a")
    mask = np.zeros((30, 40), np.uint8)
    mask[0, 0] = mask[29, 39] = white
    save(raw, f"fixations/train/a.{suffix}", mask)
    sample = read_one(raw).sample
    assert sample.points.tolist() == [[0, 0], [39, 29]]
    assert sample.observers.tolist() == [-1, -1]


def test_a_picture_with_greys_is_not_taken_for_fixations(raw):
    raw.add("train/a")
    save(raw, "fixations/train/a.png", (LEVELS * 255).astype(np.uint8))
    with pytest.raises(IncompleteSampleError, match=r"a\.png is not a binary picture"):
        read_one(raw)


@pytest.mark.parametrize(
    ("suffix", "values"),
    [
        ("png", (LEVELS * 65535).astype(np.uint16)),
        ("png", (LEVELS * 3000).astype(np.uint16)),
        ("tif", (LEVELS * 2000).astype(np.int32)),
        ("tif", LEVELS.astype(np.float32)),
        ("tif", (LEVELS * 1e-6).astype(np.float32)),
        ("bmp", (LEVELS * 255).round().astype(np.uint8)),
        ("mat", LEVELS * 1e-4),
    ],
)
def test_a_density_map_of_any_numbers_keeps_its_levels(raw, suffix, values):
    raw.add("train/a")
    save(raw, f"maps/train/a.{suffix}", values)
    density = read_one(raw).density.astype(int)
    assert abs(density - (LEVELS * 255).round()).max() <= 1


@pytest.mark.parametrize(
    ("suffix", "values", "reason"),
    [
        ("png", np.tile(np.array([[[255, 0, 0]]], np.uint8), (30, 40, 1)), "is in colour"),
        ("tif", LEVELS.astype(np.float32) - 1, "negative values"),
        ("tif", np.full((30, 40), np.nan, np.float32), "not finite"),
    ],
)
def test_a_picture_that_is_not_a_density_map_is_named(raw, suffix, values, reason):
    raw.add("train/a")
    save(raw, f"maps/train/a.{suffix}", values)
    with pytest.raises(IncompleteSampleError, match=rf"maps/train/a\.{suffix} .*{reason}"):
        read_one(raw)
