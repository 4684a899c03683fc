from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.io
from PIL import Image

from shards.layouts import all_layouts, salicon
from shards.layouts.raw_samples import IncompleteSampleError, SourceOptions, read
from tests.shards.files.test_mat_files import write_hdf5


def walk(path, splits=(), seed=0):
    return salicon.walk(path, SourceOptions(splits=tuple(splits), seed=seed))


def read_one(raw):
    folder = walk(raw.path)
    (sample,) = folder.splits["train"]
    return read(folder, sample, folder.sigma)


def test_one_based_gaze_becomes_zero_based_at_the_borders(raw):
    raw.add("train/a", [np.array([[1, 1], [640, 480], [640, 1]], np.uint16)], size=(480, 640))
    assert read_one(raw).sample.points.tolist() == [[0, 0], [639, 479], [639, 0]]


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
def test_every_number_type_gives_the_same_points(raw, kind):
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


def test_a_sample_whose_observers_are_all_empty_is_incomplete(raw):
    raw.add("train/a", [np.empty((0, 2)), [[99, 99]]])
    with pytest.raises(IncompleteSampleError, match=r"no fixations.*fixations/train/a\.mat"):
        read_one(raw)


def test_no_observers_at_all_is_incomplete(raw):
    raw.add("train/a", [])
    with pytest.raises(IncompleteSampleError, match=r"fixations/train/a\.mat"):
        read_one(raw)


@pytest.mark.parametrize("length", [0, 20, 900])
def test_a_cut_jpeg_is_named(raw, length):
    raw.add("train/a")
    raw.put("images/train/a.jpg", (raw.path / "images/train/a.jpg").read_bytes()[:length])
    with pytest.raises(IncompleteSampleError, match=r"images/train/a\.jpg"):
        read_one(raw)


def test_a_photograph_that_is_no_picture_is_named(raw):
    raw.add("train/a")
    raw.put("images/train/a.jpg", b"GIF, it says")
    with pytest.raises(IncompleteSampleError, match=r"images/train/a\.jpg cannot be decoded"):
        read_one(raw)


def test_a_broken_map_is_named(raw):
    raw.add("train/a")
    raw.put("maps/train/a.png", b"\x89PNG nothing")
    with pytest.raises(IncompleteSampleError, match=r"maps/train/a\.png cannot be decoded"):
        read_one(raw)


def test_a_map_of_zeros_is_named(raw, png):
    raw.add("train/a")
    raw.put("maps/train/a.png", png(np.zeros((30, 40), np.uint8)))
    with pytest.raises(IncompleteSampleError, match=r"zeros: maps/train/a\.png"):
        read_one(raw)


def test_a_broken_mat_is_named(raw):
    raw.add("train/a")
    raw.put("fixations/train/a.mat", b"MATLAB" * 50)
    with pytest.raises(IncompleteSampleError, match=r"fixations/train/a\.mat is not a \.mat file"):
        read_one(raw)


def test_gaze_of_three_columns_is_refused(raw):
    raw.add("train/a", [np.ones((4, 3))])
    with pytest.raises(IncompleteSampleError, match=r"a\.mat.*shape \(4, 3\), expected \(M, 2\)"):
        read_one(raw)


def test_a_map_of_another_size_is_named(raw, png):
    raw.add("train/a")
    raw.put("maps/train/a.png", png(np.ones((30, 41), np.uint8)))
    with pytest.raises(IncompleteSampleError, match=r"maps/train/a\.png is 30 x 41"):
        read_one(raw)


def test_a_mat_of_another_resolution_is_named(raw, mat):
    raw.add("train/a")
    raw.put("fixations/train/a.mat", mat([[[1, 1]]], (31, 40)))
    with pytest.raises(IncompleteSampleError, match=r"fixations/train/a\.mat is 31 x 40"):
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
    first, again, other = (walk(raw.path, seed=seed) for seed in (3, 3, 4))
    assert [len(first.splits[split]) for split in ("train", "val")] == [18, 2]
    assert first.splits == again.splits
    assert first.splits != other.splits
    assert first.split_seed == 3
    assert {sample.key[:5] for sample in first.splits["train"]} == {"train"}


def test_splits_with_images_alone_are_left_out_and_told(raw):
    raw.add("train/a")
    raw.add("test/b")
    for folder in ("fixations", "maps"):
        for path in (raw.path / folder / "test").iterdir():
            path.unlink()
        (raw.path / folder / "test").rmdir()
    found = walk(raw.path)
    assert list(found.splits) == ["train"]
    assert found.unlabelled == ("test",)
    with pytest.raises(ValueError, match="has no folder test/"):
        walk(raw.path, ["test"])


def test_only_the_wanted_splits_are_found(tiny):
    assert list(walk(tiny.path, ["val"]).splits) == ["val"]
    with pytest.raises(ValueError, match="no split 'dev'; it has train, val"):
        walk(tiny.path, ["dev"])


def test_a_missing_folder_is_named(raw):
    with pytest.raises(ValueError, match="raw is not a folder"):
        all_layouts.walk(raw.path)
    raw.path.mkdir()
    with pytest.raises(ValueError, match="has no folder images/"):
        walk(raw.path)


def test_empty_folders_are_named(raw):
    for name in ("images", "fixations", "maps"):
        (raw.path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="raw holds no samples"):
        walk(raw.path)
    for name in ("images", "fixations", "maps"):
        (raw.path / name / "train").mkdir()
    with pytest.raises(ValueError, match=r"images/train is empty: expected \.jpg"):
        walk(raw.path)


def test_two_photographs_of_one_name_are_refused(raw):
    raw.add("train/a")
    raw.put("images/train/a.png", (raw.path / "images/train/a.jpg").read_bytes())
    with pytest.raises(ValueError, match="same name"):
        walk(raw.path)


def test_images_both_in_splits_and_beside_them_are_refused(raw):
    raw.add("train/a")
    raw.add("b")
    with pytest.raises(ValueError, match="both images and folders"):
        walk(raw.path)


@pytest.mark.parametrize(
    ("lost", "kind"),
    [
        ("images/train/t3.jpg", "are missing"),
        ("fixations/train/t3.mat", "have no file of fixations"),
        ("maps/train/t3.png", "have no density map"),
    ],
)
def test_a_sample_that_misses_a_file_is_a_fault(tiny, lost, kind):
    (tiny.path / lost).unlink()
    found = walk(tiny.path)
    assert [fault.kind for fault in found.faults] == [kind]
    assert "train/t3" in found.faults[0].what
    assert found.num_images == 9


def test_the_fingerprint_changes_with_a_file(tiny):
    before = walk(tiny.path).fingerprint
    assert walk(tiny.path).fingerprint == before
    tiny.add("train/t0", seed=77)
    assert walk(tiny.path).fingerprint != before


def test_gaze_of_matlab_7_3_is_read(raw):
    raw.add("train/a")
    observers = [np.array([[1.0, 1.0], [40.0, 30.0]]), np.empty((0, 2)), np.array([[3.0, 4.0]])]
    content = {"resolution": np.array([[30.0, 40.0]]), "gaze": {"fixations": observers}}
    write_hdf5(raw.path / "fixations/train/a.mat", content)
    sample = read_one(raw).sample
    assert sample.points.tolist() == [[0, 0], [39, 29], [2, 3]]
    assert sample.observers.tolist() == [0, 0, 2]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
@pytest.mark.parametrize("white", [1, 255])
def test_binary_pictures_of_fixated_pixels_are_read(raw, suffix, white):
    raw.add("train/a")
    (raw.path / "fixations/train/a.mat").unlink()
    mask = np.zeros((30, 40), np.uint8)
    mask[0, 0] = mask[29, 39] = white
    Image.fromarray(mask).save(raw.path / f"fixations/train/a.{suffix}")
    sample = read_one(raw).sample
    assert sample.points.tolist() == [[0, 0], [39, 29]]
    assert sample.observers.tolist() == [-1, -1]


def test_a_picture_with_greys_is_not_taken_for_fixations(raw, png):
    raw.add("train/a")
    (raw.path / "fixations/train/a.mat").unlink()
    raw.put("fixations/train/a.png", png(np.arange(1200).reshape(30, 40).astype(np.uint8)))
    with pytest.raises(IncompleteSampleError, match=r"a\.png is not a binary picture"):
        read_one(raw)


LEVELS = np.arange(1200, dtype=np.float64).reshape(30, 40) / 1199


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
    (raw.path / "maps/train/a.png").unlink()
    path = raw.path / f"maps/train/a.{suffix}"
    if suffix == "mat":
        scipy.io.savemat(path, {"map": values})
    else:
        Image.fromarray(values).save(path)
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
def test_a_density_map_that_is_none_is_named(raw, suffix, values, reason):
    raw.add("train/a")
    (raw.path / "maps/train/a.png").unlink()
    Image.fromarray(values).save(raw.path / f"maps/train/a.{suffix}")
    with pytest.raises(IncompleteSampleError, match=rf"maps/train/a\.{suffix} .*{reason}"):
        read_one(raw)
