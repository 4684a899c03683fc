from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from shards.files.manifest import Manifest
from shards.inspect.verify import verify
from shards.layouts.all_layouts import LAYOUTS, find_layout, find_samples
from shards.layouts.raw_samples import IncompleteSampleError, read
from shards.layouts.source_options import SourceOptions
from tests.shards import raw_layouts as layouts
from tests.shards.conftest import encode_mat, encode_picture, encode_png, pack


def samples(folder, **options):
    """Every sample of a source by its stem, read."""
    found = find_samples(folder, SourceOptions(**options))
    return {
        raw.key.split("/")[1]: read(found, raw, found.layout.sigma or 3)
        for split in found.splits.values()
        for raw in split
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_known_by_its_names_and_builds(tmp_path, name):
    """A new layout needs a function of its name in raw_layouts.py that writes a small data set."""
    source = getattr(layouts, name.replace("-", "_"))(tmp_path / "raw")
    assert find_layout(source) == name
    manifest = pack(source, tmp_path / "out", sigma=3)
    assert verify(tmp_path / "out", full=True) == manifest
    assert manifest.origin.format == name
    assert list(manifest.splits) == ["train", "val"]


def test_a_layout_that_is_not_known_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(ValueError, match=r"has no known layout \(salicon: images/, .*--format"):
        find_samples(tmp_path)
    with pytest.raises(ValueError, match="unknown format: SALICON, known: salicon, salicon-json"):
        find_samples(tmp_path, SourceOptions(format="SALICON"))


def test_a_folder_of_two_layouts_asks_for_the_format(tiny):
    layouts.put(tiny.path / "fixations.csv", b"image,x,y\n")
    with pytest.raises(ValueError, match="matches salicon and csv; choose one with --format"):
        find_samples(tiny.path)
    assert find_samples(tiny.path, SourceOptions(format="salicon")).layout.name == "salicon"


@pytest.mark.parametrize(
    ("layout", "lost", "reason"),
    [
        ("osie", "data/stimuli/1002.jpg", "no photograph: 1002, in .*fixations.mat"),
        ("mit1003", "ALLFIXATIONMAPS/i1_fixPts.jpg", "no fixations: ALLSTIMULI/i1.jpeg"),
        ("mit1003", "ALLFIXATIONMAPS/i1_fixMap.jpg", "no density map: ALLSTIMULI/i1.jpeg"),
        ("cat2000", "trainSet/FIXATIONLOCS/Art/002.mat", "no fixations: .*Stimuli/Art/002.jpg"),
        ("salicon_json", "images/val/COCO_val2014_000000000009.jpg", "no photograph: COCO_val2014"),
    ],
)
def test_a_sample_that_misses_a_file_is_a_fault(tmp_path, layout, lost, reason):
    (getattr(layouts, layout)(tmp_path) / lost).unlink()
    (fault,) = find_samples(tmp_path).faults
    assert re.match(f"have {reason}", f"{fault.reason}: {fault.file}")


@pytest.mark.parametrize(
    ("layout", "table", "text", "reason"),
    [
        ("osie", "data/eye/fixations.mat", "MATLAB" * 40, "is not a .mat file"),
        *(
            ("salicon_json", "fixations_val2014.json", text, "is not SALICON.s JSON")
            for text in ("", "[]", "{}", '{"images": [{}], "annotations": []}')
        ),
    ],
)
def test_a_broken_table_is_named(tmp_path, layout, table, text, reason):
    layouts.put(getattr(layouts, layout)(tmp_path) / table, text.encode())
    with pytest.raises(ValueError, match=f"{table} {reason}"):
        find_samples(tmp_path)


def test_osies_points_become_zero_based_and_keep_their_durations(tmp_path):
    found = samples(layouts.osie(tmp_path))
    first = found["1001"].sample
    assert first.points.tolist() == [[2, 2], [39, 29], [0, 0]]
    assert first.observers.tolist() == [0, 0, 2]
    assert found["1001"].num_empty_observers == 1
    np.testing.assert_array_equal(first.timing[:, 1], [200, 210, 200])
    assert np.isnan(first.timing[:, 0]).all()
    assert found["1002"].sample.points.tolist() == [[19, 14], [20, 14], [22, 15], [4, 5]]


def test_mit1003s_jpeg_points_are_thresholded_and_sizes_may_differ(tmp_path):
    found = samples(layouts.mit1003(tmp_path))
    assert found["i0"].sample.points.tolist() == [[9, 4], [2, 12]]
    assert found["i2"].sample.points.tolist() == [[9, 6], [2, 12]]
    assert found["i0"].sample.observers.tolist() == [-1, -1]
    assert found["i1"].density.shape == (40, 30)


def test_a_map_that_is_a_jpeg_is_stored_as_png_of_the_same_pixels(tmp_path):
    layouts.mit1003(tmp_path)
    reading = samples(tmp_path)["i0"]
    expected = np.asarray(Image.open(tmp_path / "ALLFIXATIONMAPS/i0_fixMap.jpg"))
    assert reading.sample.density.startswith(b"\x89PNG")
    np.testing.assert_array_equal(reading.density, expected)


@pytest.mark.parametrize(
    ("layout", "maps"),
    [("mit1003", "ALLFIXATIONMAPS/*_fixMap.jpg"), ("cat2000", "trainSet/FIXATIONMAPS")],
)
def test_without_files_of_them_maps_are_made_of_the_fixations(tmp_path, layout, maps):
    source = getattr(layouts, layout)(tmp_path / "raw")
    for path in source.glob(maps):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(ValueError, match=r"has no density maps, .* set the Gaussian's width"):
        pack(source, tmp_path / "out")
    manifest = pack(source, tmp_path / "out", sigma=3)
    assert (manifest.origin.maps, manifest.origin.sigma) == ("fixations", 3)
    assert not manifest.dropped.samples


def test_cat2000_is_read_by_category_without_its_output_folders(tmp_path):
    found = samples(layouts.cat2000(tmp_path))
    assert sorted(found) == ["Action-001", "Action-002", "Art-001", "Art-002"]
    assert found["Art-002"].sample.points.tolist() == [[5, 2], [39, 29]]
    assert find_samples(tmp_path).unlabelled == ("test",)
    assert sorted(samples(tmp_path / "trainSet")) == sorted(found)


def test_salicons_json_has_rows_before_columns(tmp_path):
    found = find_samples(layouts.salicon_json(tmp_path))
    assert list(found.splits) == ["train", "val"]
    reading = read(found, found.splits["train"][0], 3)
    assert reading.sample.key == "train/COCO_train2014_000000000009"
    assert reading.sample.points.tolist() == [[1, 0], [39, 29], [5, 4]]
    assert reading.sample.observers.tolist() == [0, 0, 2]
    assert reading.num_empty_observers == 1


def test_salicons_json_takes_maps_where_there_are_any(tmp_path):
    layouts.salicon_json(tmp_path)
    for split in ("train", "val"):
        name = f"maps/{split}/COCO_{split}2014_000000000009.png"
        layouts.put(tmp_path / name, encode_png(layouts.ramp((30, 40))))
    layouts.put(tmp_path / "images/val/._COCO_val2014_000000000009.jpg", b"of a file manager")
    assert find_samples(tmp_path).has_maps
    assert not find_samples(tmp_path, SourceOptions(maps="fixations")).has_maps


def test_a_json_that_has_a_photograph_twice_or_of_another_size_is_named(tmp_path):
    path = layouts.salicon_json(tmp_path) / "fixations_train2014.json"
    content = json.loads(path.read_text())
    content["images"][0]["height"] = 31
    path.write_text(json.dumps(content))
    found = find_samples(tmp_path)
    with pytest.raises(IncompleteSampleError, match="sizes differ"):
        read(found, found.splits["train"][0], 3)
    content["images"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"train2014\.json has 2 entries for COCO_.*9\.jpg"):
        find_samples(tmp_path)


def test_salicons_editions_are_told_apart_by_their_number_of_fixated_pixels(tmp_path):
    for name, num in (("2015", 170), ("2017", 532)):
        root = tmp_path / name
        rng = np.random.default_rng(0)
        for split in ("train", "val"):
            stem = f"{split}/COCO_{split}2014_000000000009"
            pixels = rng.permutation(60 * 80)[:num]
            points = np.stack([pixels % 80 + 1, pixels // 80 + 1], axis=1)
            layouts.put(root / f"images/{stem}.jpg", encode_picture((60, 80)))
            layouts.put(root / f"fixations/{stem}.mat", encode_mat([points], (60, 80)))
        manifest = pack(root, tmp_path / f"{name}-out")
        assert manifest.edition == f"SALICON {name}"
        stated = pack(root, tmp_path / f"{name}-stated", edition="mine")
        assert stated.edition == "mine"


def test_the_licence_is_the_sources_first_line_of_it_or_what_is_stated(tiny, tmp_path):
    out = tmp_path / "out"
    assert pack(tiny.path, out).licence is None
    tiny.put("LICENSE.md", b"\n# The MIT License (MIT)\n\nCopyright (c)")
    before = (out / "train-000000.tar").stat().st_mtime_ns
    found = pack(tiny.path, out)
    assert found.licence == "The MIT License (MIT)"
    stated = pack(tiny.path, out, licence="CC BY 4.0", edition="mine")
    assert pack(tiny.path, out) == stated == Manifest.load(out)
    assert (stated.licence, stated.edition) == ("CC BY 4.0", "mine")
    assert stated.digest == found.digest
    assert (out / "train-000000.tar").stat().st_mtime_ns == before


def test_data_sets_that_are_joined_keep_both_licences(packed):
    known = Manifest.load(packed)
    joined = Manifest.join([known, replace(known, licence="CC0 1.0")])
    assert joined.licence == "unknown and CC0 1.0"


def test_without_maps_salicons_are_made_with_its_sigma(tiny, tmp_path):
    manifest = pack(tiny.path, tmp_path / "out", maps="fixations", sigma=2)
    assert (manifest.origin.maps, manifest.origin.sigma) == ("fixations", 2)
    found = find_samples(tiny.path, SourceOptions(maps="fixations"))
    reading = read(found, found.splits["train"][1], 2)
    y, x = np.mgrid[:30, :40]
    expected = sum(
        np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 2**2)) for px, py in reading.sample.points
    )
    np.testing.assert_allclose(reading.density / 255, expected / expected.max(), atol=0.01)
    stored = np.asarray(Image.open(io.BytesIO(reading.sample.density)))
    np.testing.assert_array_equal(stored, reading.density)


def test_maps_that_are_to_come_from_files_but_are_not_there_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="OSIE has no density maps"):
        find_samples(layouts.osie(tmp_path), SourceOptions(maps="files"))


def test_two_photographs_that_would_be_one_sample_are_refused(tmp_path):
    layouts.cat2000(tmp_path)
    for folder, suffix in (("Stimuli", "jpg"), ("FIXATIONMAPS", "jpg"), ("FIXATIONLOCS", "mat")):
        root = tmp_path / "trainSet" / folder
        for new in ("A-B", "A"):
            (root / new).mkdir()
        content = (root / f"Art/001.{suffix}").read_bytes()
        layouts.put(root / f"A-B/1.{suffix}", content)
        layouts.put(root / f"A/B-1.{suffix}", content)
    with pytest.raises(ValueError, match=r"A/B-1\.jpg and .*A-B/1\.jpg would both be .*rename one"):
        find_samples(tmp_path)
