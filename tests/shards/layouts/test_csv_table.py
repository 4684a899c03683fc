from __future__ import annotations

import numpy as np
import pytest

from shards.build.writer import build
from shards.inspect.verify import verify
from shards.layouts.all_layouts import walk
from shards.layouts.raw_gaze import CoordinateSystem
from shards.layouts.raw_samples import SourceOptions, read
from tests.shards import raw_layouts as layouts
from tests.shards.conftest import encode_picture, encode_png

ROWS = """image,x,y,observer,time,duration
a.jpg,5,6,Zoe,400,180
a.jpg,0,0,Zoe,0,200.5
a.jpg,39,29,Al,10,
b.png,1,2,Al,0,100
b.png,,,Al,300,90
"""


def read_all(source, **options):
    folder = walk(source, SourceOptions(**options))
    samples = [raw for split in folder.splits.values() for raw in split]
    return {raw.key.split("/")[1]: read(folder, raw, 3) for raw in samples}


def points(source, stem="a", **coordinates):
    return read_all(source, coordinates=CoordinateSystem(**coordinates))[
        stem
    ].sample.points.tolist()


def test_observers_are_numbered_and_fixations_follow_in_time(tmp_path):
    sample = read_all(layouts.table(tmp_path, ROWS))["a"].sample
    assert sample.points.tolist() == [[39, 29], [0, 0], [5, 6]]
    assert sample.observers.tolist() == [0, 1, 1]
    expected = np.array([[10, np.nan], [0, 200.5], [400, 180]], np.float32)
    np.testing.assert_array_equal(sample.timing, expected)


def test_a_row_without_a_place_is_dropped_and_counted(tmp_path):
    reading = read_all(layouts.table(tmp_path, ROWS))["b"]
    assert reading.sample.points.tolist() == [[1, 2]]
    assert reading.num_points_outside == 1


def test_image_x_and_y_are_enough(tmp_path):
    sample = read_all(layouts.table(tmp_path, "image,x,y\na,5,6\nb,7,8\na,1,2\n"))["a"].sample
    assert sample.points.tolist() == [[5, 6], [1, 2]]
    assert sample.observers.tolist() == [-1, -1]
    assert sample.timing is None


def test_observers_with_numbers_are_in_order_of_number(tmp_path):
    rows = "image,x,y,observer\na,1,1,10\na,2,2,9\nb,3,3,9\n"
    sample = read_all(layouts.table(tmp_path, rows))["a"].sample
    assert sample.points.tolist() == [[2, 2], [1, 1]]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_a_byte_order_mark_and_capitals_are_read(tmp_path, separator):
    rows = "\ufeffY,X,Image\n6,5,a.jpg\n8,7,b.png\n".replace(",", separator)
    assert points(layouts.table(tmp_path, rows)) == [[5, 6]]


@pytest.mark.parametrize(
    ("coordinates", "row", "expected"),
    [
        ({}, "0,29", [0, 29]),
        ({}, "4.49,5.5", [4, 6]),
        ({"first_pixel": 1}, "1,30", [0, 29]),
        ({"origin": "bottom-left"}, "0,0", [0, 29]),
        ({"origin": "bottom-left", "first_pixel": 1}, "40,30", [39, 0]),
        ({"origin": "centre"}, "0.5,0.5", [20, 14]),
        ({"origin": "centre"}, "-19.5,14.5", [0, 0]),
        ({"units": "fraction"}, "0,0.999", [0, 29]),
        ({"units": "fraction"}, "0.5,0.5", [20, 15]),
        ({"units": "fraction", "origin": "bottom-left"}, "0.99,0.001", [39, 29]),
        ({"units": "fraction", "origin": "centre"}, "-0.49,0.49", [0, 0]),
    ],
)
def test_every_unit_and_origin_names_the_same_pixels(tmp_path, coordinates, row, expected):
    source = layouts.table(tmp_path, f"image,x,y\na,{row}\nb,3,3\nb,0,0\n")
    options = SourceOptions(coordinates=CoordinateSystem(**coordinates))
    folder = walk(source, options)
    (raw,) = [raw for split in folder.splits.values() for raw in split if raw.key.endswith("a")]
    assert read(folder, raw, 3).sample.points.tolist() == [expected]


def test_the_frame_is_part_of_what_a_build_was_made_from(tmp_path):
    source = layouts.table(tmp_path, ROWS)
    prints = {
        walk(source, SourceOptions(coordinates=system, trust_coordinates=True)).fingerprint
        for first in (0, 1)
        for units in ("pixels", "fraction")
        for system in [CoordinateSystem(first_pixel=first, units=units)]
    }
    assert len(prints) == 4


def test_images_of_any_size_and_format_build_and_verify(tmp_path):
    rows = "image,x,y,split\na.jpg,1,1,train\nb.png,2,2,val\nc.tif,3,3,train\n"
    source = layouts.table(tmp_path / "raw", rows, ("a.jpg", "b.png", "c.tif"))
    layouts.put(source / "images/a.jpg", encode_picture((61, 35)))
    manifest = build(source, tmp_path / "out", sigma=2, progress=False)
    assert verify(tmp_path / "out", full=True) == manifest
    sizes = [(entry.height, entry.width) for entry in manifest.splits["train"].samples]
    assert sizes == [(61, 35), (30, 40)]
    assert manifest.origin.split_seed is None


def test_maps_beside_the_table_are_taken(tmp_path):
    source = layouts.table(tmp_path, ROWS)
    for stem in ("a", "b"):
        layouts.put(source / f"maps/{stem}.png", encode_png(layouts.ramp((30, 40))))
    assert (read_all(source)["a"].density == layouts.ramp((30, 40))).all()


def test_photographs_in_folders_and_the_same_name_are_told_apart(tmp_path):
    source = layouts.table(tmp_path, "image,x,y\nA/x.jpg,1,1\nB/x.jpg,2,2\n", ())
    for folder in ("A", "B"):
        layouts.put(source / f"images/{folder}/x.jpg", encode_picture())
    found = read_all(source)
    assert found["A-x"].sample.points.tolist() == [[1, 1]]
    assert found["B-x"].sample.points.tolist() == [[2, 2]]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a", r"a may be images/a\.jpg or images/a\.png; write its path"), (
        "images/a.jpg", r"calls images/a\.jpg both a\.jpg and images/a\.jpg; use one name")],
)  # fmt: skip
def test_a_photographs_name_is_one_and_of_one_alone(tmp_path, name, reason):
    rows = f"image,x,y\na.jpg,1,1\na.png,2,2\n{name},3,3\n"
    source = layouts.table(tmp_path, rows, ("a.jpg", "a.png"))
    with pytest.raises(ValueError, match=rf"fixations\.csv:? {reason}"):
        walk(source)


def test_hidden_files_are_no_photographs(tmp_path):
    source = layouts.table(tmp_path, ROWS)
    layouts.put(source / "images/._a.jpg", b"of a file manager")
    assert not walk(source).faults


def test_a_table_elsewhere_may_be_named(tmp_path):
    source = layouts.table(tmp_path / "raw", ROWS)
    (source / "fixations.csv").rename(tmp_path / "other.csv")
    folder = walk(source, SourceOptions(table=tmp_path / "other.csv"))
    assert folder.num_images == 2


def test_photographs_without_rows_and_rows_without_photographs_are_faults(tmp_path):
    rows = ROWS + "../../etc/passwd,1,1,Al,0,0\nnone.jpg,1,1,Al,0,0\n"
    source = layouts.table(tmp_path, rows, ("a.jpg", "b.png", "c.jpg"))
    faults = [(fault.kind, fault.what.split(",")[0]) for fault in walk(source).faults]
    assert faults == [
        ("are missing", "../../etc/passwd"),
        ("are missing", "none.jpg"),
        ("have no fixations", "images/c.jpg"),
    ]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("", "no column image, x, y among"),
        ("image,x\na,1\n", "no column y among image, x; the first line names"),
        ("image,x,y,x\n", "two columns are named x"),
        ("image,x,y\n", "has no rows"),
        ("image,x,y\na,1,2\na,left,2\n", "line 3: x is 'left', not a number"),
        ("image,x,y,split\na,1,2,train\na,1,2,val\n", "line 3: a is in 'val', and in 'train'"),
        ("image,x,y,split\na,1,2,../x\n", r"line 2: '\.\./x' cannot name a split"),
        ("image,x,y,split\na,1,2,\nb,1,2,val\n", "a.jpg has no split, others have"),
        ("image,x,y\na,1,2\nb,\xff,2\n", "line 3: x is 'ÿ', not a number"),
        ("image,x,y\na,20,5,30,5\n", "line 2 has 5 cells, the first line names 3 columns"),
        ("image,x,y,observer\na,1,2,z\n\nb,1,5,2,5,z\n", "line 4 has 6 cells"),
        ("image x y\n1 a.jpg 5 6\n", "line 2 has 4 cells"),
        ('image,x,y\na,"1,024","1,500"\n', "line 2: '1,024' may be 1.024 or 1024"),
        ("image;x;y\na;1.024;2,5\n", "line 2: x is '1.024', which may be 1.024 or 1024"),
        ("image,x,y\n,1,2\n", "line 2 names no image"),
        ("image,x,y\nphoto_1.jpg,1,2\n", "names no photograph .*it says 'photo_1.jpg'.*images/a"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(tmp_path, rows, reason):
    source = layouts.table(tmp_path, rows)
    with pytest.raises(ValueError, match=rf"fixations\.csv:? .*({reason})"):
        walk(source, format="csv")


def test_two_tables_ask_for_one(tmp_path):
    layouts.put(layouts.table(tmp_path, ROWS) / "other.csv", b"image,x,y\n")
    with pytest.raises(ValueError, match=r"not fixations\.csv, other\.csv; name it with --table"):
        walk(tmp_path, format="csv")


@pytest.mark.parametrize(
    "rows",
    [
        "image;x;y\na.jpg;5,25;6,0\nb;1;2",
        'image,x,y\na.jpg,"5,25","6,0"\nb,1,2',
        "image\tx\ty\na.jpg\t5,25\t6,0\nb\t1\t2",
        "sep=;\nimage;x;y\na.jpg;5,25;6,0\nb;1;2",
        "sep=,\r\nimage,x,y\r\n\r\na.jpg,5.25,6\r\n,,\r\nb,1,2\r\n\r\n",
        "image x y\na.jpg 5.25 6\nb  1 2",
        "image|x|y\na.jpg|5.25|6|\nb|1|2",
        '"","image","x","y"\n"1","a.jpg",5.25,6\n"2","b",1,2',
        "\n\nimage, x, y\na.jpg, 5.25, 6.0\nb, 1, 2",
        "image,x,y,,\na.jpg,5.25,6,,\nb,1,2,,",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_a_table_of_any_locale_and_encoding_is_read(tmp_path, rows, encoding):
    source = layouts.table(tmp_path, "")
    (source / "fixations.csv").write_bytes(rows.encode(encoding))
    assert points(source) == [[5, 6]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_names_with_umlauts_are_read_in_any_encoding(tmp_path, encoding):
    source = layouts.table(tmp_path, "", ("größe.jpg", "b.png"))
    (source / "fixations.csv").write_bytes("image,x,y\ngröße.jpg,5,6\nb,1,2\n".encode(encoding))
    assert points(source, "größe") == [[5, 6]]


@pytest.mark.parametrize("gap", ["", ".", "NA", "NULL", "-", "nan", "NaN", "n/a", "None", " "])
def test_a_missing_value_is_dropped_and_counted(tmp_path, gap):
    rows = f"image,x,y,time\na,5,6,0\na,{gap},{gap},{gap}\na,7,{gap},3\nb,1,2,0\n"
    reading = read_all(layouts.table(tmp_path, rows))["a"]
    assert reading.sample.points.tolist() == [[5, 6]]
    assert reading.num_points_outside == 2


@pytest.mark.parametrize(
    ("called", "file"),
    [
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("cafe\u0301", "caf\u00e9.jpg"),
        ("IMG_1.jpg", "IMG_1.JPG"),
        ("set\\p.JPG", "set/p.jpg"),
        ("./set/p.jpg", "set/p.jpg"),
        ("C:\\lab\\images\\p.jpg", "p.jpg"),
        ("/home/me/set/p.jpg", "set/p.jpg"),
        ("p.png", "p.jpg"),
        ("p.jfif", "p.jfif"),
        ("shot_0.5", "shot_0.5.jpg"),
    ],
)
def test_a_name_is_matched_where_one_file_fits(tmp_path, called, file):
    source = layouts.table(tmp_path, "", ("other.png",))
    layouts.put(source / "images" / file, encode_picture())
    rows = f"image,x,y\n{called},5,6\nother,1,2\n"
    (source / "fixations.csv").write_text(rows, encoding="utf-8")
    folder = walk(source, SourceOptions())
    assert not folder.faults
    gaze = {raw.image: raw.gaze for split in folder.splits.values() for raw in split}
    assert gaze[f"images/{file}"].points.tolist() == [[5, 6]]


@pytest.mark.parametrize(
    ("called", "files", "reason"),
    [
        ("P.jpg", ("p.jpg", "p.JPG"), r"P\.jpg may be images/p\.JPG or images/p\.jpg"),
        ("A/p.jpg", ("B/p.jpg",), "names no photograph"),
        ("p.webm", ("p.jpg",), "names no photograph"),
    ],
)
def test_a_name_that_fits_several_files_or_none_is_an_error(tmp_path, called, files, reason):
    source = layouts.table(tmp_path, f"image,x,y\n{called},5,6\n{called},1,2\n", ())
    for file in files:
        layouts.put(source / "images" / file, encode_picture())
    with pytest.raises(ValueError, match=reason):
        walk(source)


def test_too_few_photographs_that_can_be_used_name_the_true_cause(tmp_path):
    source = layouts.table(tmp_path, "image,x,y\na,5,6\nc,1,2\n", ("a.jpg",))
    with pytest.raises(ValueError, match=r"1 of 2 images cannot be used.*are missing: c, for"):
        walk(source)


@pytest.mark.parametrize(
    ("split", "expected"),
    [("training", "train"), ("Validation", "val"), ("valid", "val"), ("TEST", "test")],
)
def test_other_names_of_splits_are_known(tmp_path, split, expected):
    source = layouts.table(tmp_path, f"image,x,y,split\na,5,6,{split}\nb,1,2,Train\n")
    assert f"{expected}/a" in {
        raw.key for samples in walk(source).splits.values() for raw in samples
    }


GAZE = np.random.default_rng(0).normal((320, 240), (90, 70), (60, 2))
"""Sixty fixations on a photograph of 640 x 480."""


def large(tmp_path, gaze):
    source = layouts.table(tmp_path, "", ())
    rows = ["image,x,y"]
    for number in range(3):
        layouts.put(source / f"images/{number}.png", encode_png(np.zeros((480, 640), np.uint8)))
        rows += [f"{number},{x:.4f},{y:.4f}" for x, y in gaze[number::3]]
    (source / "fixations.csv").write_text("\n".join(rows))
    return source


@pytest.mark.parametrize(
    ("gaze", "reason"),
    [
        (GAZE / (640, 480), "lie in 0..1; --units fraction"),
        (GAZE / (640, 480) * 1.02 - 0.01, "--units fraction"),
        ((GAZE - (320, 240)) / 32, "lie outside .*Convert degrees"),
        (GAZE / 32, "one small part .*Convert degrees"),
        (GAZE * 3, "lie outside .*pixels of the screen"),
        (np.add(GAZE, (640, 300)), "lie outside .*pixels of the screen"),
        (GAZE / 2, r"right or lower 40 %"),
        (np.add(GAZE / 20, (600, 440)), "one small part"),
        (GAZE, None),
    ],
)
def test_gaze_in_other_units_is_refused(tmp_path, gaze, reason):
    source = large(tmp_path, gaze)
    if reason is None:
        assert not walk(source).faults
        return
    with pytest.raises(ValueError, match=reason):
        walk(source)
    assert not walk(source, SourceOptions(trust_coordinates=True)).faults


def test_x_and_y_that_are_exchanged_are_refused(tmp_path):
    gaze = np.random.default_rng(1).uniform((0, 0), (639, 479), (60, 2))
    assert not walk(large(tmp_path / "right", gaze)).faults
    with pytest.raises(ValueError, match="if x and y are exchanged"):
        walk(large(tmp_path / "wrong", gaze[:, ::-1]))


def test_fractions_and_centred_pixels_as_stated_are_taken(tmp_path):
    fractions = CoordinateSystem(units="fraction")
    assert not walk(
        large(tmp_path / "a", GAZE / (640, 480)), SourceOptions(coordinates=fractions)
    ).faults
    centred = CoordinateSystem(origin="centre")
    assert not walk(
        large(tmp_path / "b", GAZE - (320, 240)), SourceOptions(coordinates=centred)
    ).faults
    with pytest.raises(ValueError, match="lie outside"):
        walk(large(tmp_path / "c", GAZE), SourceOptions(coordinates=fractions))
