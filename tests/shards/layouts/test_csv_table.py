from __future__ import annotations

import logging

import numpy as np
import pytest

from shards.inspect.verify import verify
from shards.layouts.all_layouts import find_samples
from shards.layouts.raw_samples import read
from shards.layouts.source_options import CoordinateSystem, SourceOptions
from tests.shards import raw_layouts as layouts
from tests.shards.conftest import encode_picture, encode_png, pack

ROWS = """image,x,y,observer,time,duration
a.jpg,5,6,Zoe,400,180
a.jpg,1,0,Zoe,0,200.5
a.jpg,39,29,Al,10,
b.png,1,2,Al,0,100
b.png,,,Al,300,90
"""


def read_all(source, **options):
    folder = find_samples(source, SourceOptions(**options))
    samples = [raw for split in folder.splits.values() for raw in split]
    return {raw.key.split("/")[1]: read(folder, raw, 3) for raw in samples}


def points(source, stem="a", **options):
    return read_all(source, **options)[stem].sample.points.tolist()


def test_observers_are_numbered_and_fixations_follow_in_time(tmp_path):
    sample = read_all(layouts.table(tmp_path, ROWS))["a"].sample
    assert sample.points.tolist() == [[39, 29], [1, 0], [5, 6]]
    assert sample.observers.tolist() == [0, 1, 1]
    expected = np.array([[10, np.nan], [0, 200.5], [400, 180]], np.float32)
    np.testing.assert_array_equal(sample.timing, expected)


def test_image_x_and_y_are_enough(tmp_path):
    sample = read_all(layouts.table(tmp_path, "image,x,y\na,5,6\nb,7,8\na,1,2\n"))["a"].sample
    assert sample.points.tolist() == [[5, 6], [1, 2]]
    assert sample.observers.tolist() == [-1, -1]
    assert sample.timing is None


def test_observers_with_numbers_are_in_order_of_number(tmp_path):
    rows = "image,x,y,observer\na,1,1,10\na,2,2,9\nb,3,3,9\n"
    assert points(layouts.table(tmp_path, rows)) == [[2, 2], [1, 1]]


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
    source = layouts.table(tmp_path, f"image,x,y\na,{row}\nb,{row}\n")
    assert points(source, coordinates=CoordinateSystem(**coordinates)) == [expected]


def test_the_meaning_of_coordinates_is_part_of_the_fingerprint(tmp_path):
    source = layouts.table(tmp_path, "image,x,y\na,.5,.5\nb,.5,.5\n")
    prints = {
        find_samples(source, SourceOptions(coordinates=system, trust_coordinates=True)).fingerprint
        for system in (CoordinateSystem(), CoordinateSystem(units="fraction"))
    }
    assert len(prints) == 2


def test_images_of_any_size_and_format_build_and_verify(tmp_path):
    rows = "image,x,y,split\na.jpg,1,1,train\nb.png,2,2,val\nc.tif,3,3,train\n"
    source = layouts.table(tmp_path / "raw", rows, ("a.jpg", "b.png", "c.tif"))
    layouts.put(source / "images/a.jpg", encode_picture((61, 35)))
    manifest = pack(source, tmp_path / "out", sigma=2)
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
    assert points(source, "A-x") == [[1, 1]]
    assert points(source, "B-x") == [[2, 2]]


def test_two_names_of_one_photograph_are_one(tmp_path):
    source = layouts.table(tmp_path, "image,x,y\na.jpg,1,1\nb,2,2\nimages/a,3,3\n")
    assert points(source) == [[1, 1], [3, 3]]


def test_a_table_elsewhere_may_be_named_and_hidden_files_are_ignored(tmp_path):
    source = layouts.table(tmp_path / "raw", ROWS)
    layouts.put(source / "images/._a.jpg", b"of a file manager")
    (source / "fixations.csv").rename(tmp_path / "other.csv")
    folder = find_samples(source, SourceOptions(table=tmp_path / "other.csv"))
    assert (folder.num_images, folder.faults) == (2, ())


def test_photographs_without_rows_and_rows_without_photographs_are_faults(tmp_path):
    rows = ROWS + "../../etc/passwd,1,1,Al,0,0\nnone.jpg,1,1,Al,0,0\n"
    source = layouts.table(tmp_path, rows, ("a.jpg", "b.png", "c.jpg"))
    faults = [(fault.reason, fault.file.split(",")[0]) for fault in find_samples(source).faults]
    assert faults == [
        ("have no photograph", "../../etc/passwd"),
        ("have no photograph", "none.jpg"),
        ("have no fixations", "images/c.jpg"),
    ]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("", "no column image, x, y among"),
        ("image,x\na,1\n", "no column y among image, x; the first line must name"),
        ("image,x,y,x\n", "two columns are named x"),
        ("image,x,y\n", "has no rows"),
        ("image,x,y\na,1,2\na,left,2\n", "line 3: x is 'left', not a number"),
        ("image,x,y\na,1,2\na,1_0,2\n", "line 3: x is '1_0', not a number"),
        ("image,x,y\na,1,2\nb,\xff,2\n", "line 3: x is 'ÿ', not a number"),
        (
            "image,x,y,split\na,1,2,train\na,1,2,val\n",
            "line 3: images/a.jpg is in two splits, the second is 'val'",
        ),
        ("image,x,y,split\na,1,2,../x\n", r"line 2: '\.\./x' cannot name a split"),
        ("image,x,y,split\na,1,2,\nb,1,2,val\n", "a.jpg has no split; fill in its column `split`"),
        ("image,x,y\na,20,5,30,5\n", "line 2 has 5 cells, the first line names 3 columns"),
        ("image,x,y,observer\na,1,2,z\n\nb,1,5,2,5,z\n", "line 4 has 6 cells"),
        ("image x y\n1 a.jpg 5 6\n", "line 2 has 4 cells"),
        ("image x y time\na.jpg 5 6 0\na.jpg 5  9\n", "line 3 has 3 cells"),
        ('image,x,y\na,"1,024","1,500"\n', "line 2: '1,024' may be 1.024 or 1024"),
        ("image;x;y\na;1.024;2,5\n", "line 2: '1.024' may be 1.024 or 1024"),
        ("image,x,y\n,1,2\n", "line 2 names no image"),
        ("image,x,y\nphoto_1.jpg,1,2\n", "names no photograph.* name is 'photo_1.jpg'.*images/a"),
        (
            "image,x,y\na,5,6\nc,1,2\nd,1,2\n",
            "1 of 4 images can be used.* have no photograph .*: c, in",
        ),
    ],
)
def test_a_table_that_cannot_be_read_says_where(tmp_path, rows, reason):
    source = layouts.table(tmp_path, rows)
    with pytest.raises(ValueError, match=reason):
        find_samples(source, SourceOptions(format="csv"))


def test_two_tables_ask_for_one(tmp_path):
    layouts.put(layouts.table(tmp_path, ROWS) / "other.csv", b"image,x,y\n")
    with pytest.raises(ValueError, match=r"not fixations\.csv, other\.csv; name it with --table"):
        find_samples(tmp_path, SourceOptions(format="csv"))


@pytest.mark.parametrize(
    "rows",
    [
        "image;x;y\na.jpg;5,25;6,0\nb;1;2",
        "image;x;y\na.jpg;5,25;6.0\nb;1;2",
        'image,x,y\na.jpg,"5,25","6,0"\nb,1,2',
        "Y\tX\tImage\n6,0\t5,25\ta.jpg\n2\t1\tb",
        "sep=;\nimage;x;y\na.jpg;5,25;6,0\nb;1;2",
        "sep=,\r\nimage,x,y\r\n\r\na.jpg,5.25,6\r\n,,\r\nb,1,2\r\n\r\n",
        "image x y\na.jpg 5.25 6\nb  1 2",
        "image|x|y\na.jpg|5.25|6|\nb|1|2",
        '"","image","x","y"\n"1","a.jpg",5.25,6\n"2","b",1,2',
        "# of a tracker\n\nimage, x, y\na.jpg, 5.25, 6.0\nb, 1, 2",
        "image,x,y,,\na.jpg,5.25,6,,\nb,1,2,,",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_a_table_of_any_locale_and_encoding_is_read(tmp_path, rows, encoding):
    source = layouts.table(tmp_path, "")
    (source / "fixations.csv").write_bytes(rows.encode(encoding))
    assert points(source) == [[5, 6]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_names_with_umlauts_are_read_in_any_encoding(tmp_path, encoding):
    source = layouts.table(tmp_path, "", ("größe.jpg", "b.png"))
    (source / "fixations.csv").write_bytes("image,x,y\ngröße.jpg,5,6\nb,1,2\n".encode(encoding))
    assert points(source, "größe") == [[5, 6]]


@pytest.mark.parametrize("gap", ["", ".", "NA", "NULL", "-", "nan", "n/a", "None", " "])
def test_a_missing_value_is_dropped_and_counted(tmp_path, gap):
    rows = f"image,x,y,time\na,5,6,0\na,{gap},{gap},{gap}\na,7,{gap},3\nb,1,2,0\n"
    reading = read_all(layouts.table(tmp_path, rows))["a"]
    assert reading.sample.points.tolist() == [[5, 6]]
    assert reading.num_points_outside == 2


def test_columns_that_are_not_read_and_seconds_are_told(tmp_path, caplog):
    rows = "image,x,y,onset,duration\na,5,6,0,0.2\nb,1,2,0,0.3\n"
    with caplog.at_level(logging.INFO):
        find_samples(layouts.table(tmp_path, rows))
    assert "columns that are not read: onset" in caplog.text
    assert "durations are milliseconds; these look like seconds" in caplog.text


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
    source = layouts.table(tmp_path, f"image,x,y\n{called},5,6\nother,1,2\n", ("other.png",))
    layouts.put(source / "images" / file, encode_picture())
    folder = find_samples(source)
    found = {raw.image: raw.fixations for split in folder.splits.values() for raw in split}
    assert found[f"images/{file}"].points.tolist() == [[5, 6]]


@pytest.mark.parametrize(
    ("called", "files", "reason"),
    [
        ("P.jpg", ("p.jpg", "p.JPG"), r"P\.jpg matches images/p\.JPG and images/p\.jpg"),
        ("p", ("p.jpg", "p.png"), r"p matches images/p\.jpg and images/p\.png; write its path"),
        ("A/p.jpg", ("B/p.jpg",), "names no photograph"),
        ("p.webm", ("p.jpg",), "names no photograph"),
    ],
)
def test_a_name_that_fits_several_files_or_none_is_an_error(tmp_path, called, files, reason):
    source = layouts.table(tmp_path, f"image,x,y\n{called},5,6\n{called},1,2\n", ())
    for file in files:
        layouts.put(source / "images" / file, encode_picture())
    with pytest.raises(ValueError, match=reason):
        find_samples(source)


@pytest.mark.parametrize(
    ("split", "expected"),
    [("training", "train"), ("Validation", "val"), ("valid", "val"), ("TEST", "test")],
)
def test_other_names_of_splits_are_known(tmp_path, split, expected):
    source = layouts.table(tmp_path, f"image,x,y,split\na,5,6,{split}\nb,1,2,Train\n")
    keys = {raw.key for samples in find_samples(source).splits.values() for raw in samples}
    assert f"{expected}/a" in keys


SIZE = np.array([640, 480])
GAZE = np.random.default_rng(0).normal(SIZE / 2, (90, 70), (600, 2))
"""Fixations on ten photographs of 640 x 480."""
ANYWHERE = np.random.default_rng(1).uniform((0, 0), SIZE - 1, (60, 2))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    for number in range(10):
        layouts.put(folder / f"images/{number}.png", encode_png(np.zeros((480, 640), np.uint8)))
    return folder


def check(folder, gaze, **options):
    rows = ["image,x,y", *(f"{number % 10},{x:.4f},{y:.4f}" for number, (x, y) in enumerate(gaze))]
    (folder / "fixations.csv").write_text("\n".join(rows))
    assert not find_samples(folder, SourceOptions(**options)).faults


@pytest.mark.parametrize(
    ("gaze", "reason"),
    [
        (GAZE / SIZE, "lie in 0..1; --units fraction"),
        (GAZE / SIZE * 1.02 - 0.01, "--units fraction"),
        ((GAZE - SIZE / 2) / 32, "lie outside .*convert them first"),
        (GAZE / 32, "one small part .*convert them first"),
        (GAZE * 3, "lie outside .*pixels of the screen"),
        (np.add(GAZE, (320, 150)), "lie outside .*pixels of the screen"),
        (np.add(GAZE, (150, 0)), "the mean fixation lies at 7.% of the width"),
        (GAZE / 2, "the mean fixation lies at 2.% of the width"),
        (GAZE * 0.65, "the mean fixation lies at 3.% of the width and 3.%"),
        (GAZE / 20 + (600, 440), "one small part"),
        (np.add(GAZE * (0, 1), (320, 0)), "one small part"),
        (np.where(np.arange(600)[:, None] < 6, 0, GAZE), "x and y of 6 of 600 fixations are 0"),
        (ANYWHERE[:, ::-1], "if x and y are exchanged"),
    ],
)
def test_gaze_in_other_units_is_refused(photographs, gaze, reason):
    with pytest.raises(ValueError, match=f"{reason}.*--trust-coordinates"):
        check(photographs, gaze)
    check(photographs, gaze, trust_coordinates=True)


@pytest.mark.parametrize(
    ("gaze", "system"),
    [
        (GAZE, {}),
        (ANYWHERE, {}),
        (np.add(GAZE, (40, -30)), {}),
        (GAZE / SIZE, {"units": "fraction"}),
        (GAZE - SIZE / 2, {"origin": "centre"}),
    ],
)
def test_gaze_as_stated_is_taken(photographs, gaze, system):
    check(photographs, gaze, coordinates=CoordinateSystem(**system))
