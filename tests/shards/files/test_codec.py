from __future__ import annotations

import io
import tarfile
from urllib.parse import unquote

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from emlnet.data.samples import Sample
from shards.files.codec import TAR_END, decode_pictures, decode_record, encode_record
from tests.shards.conftest import encode_picture, encode_png


@pytest.fixture
def sample():
    return Sample(
        key="train/a",
        image=encode_picture(),
        points=np.array([[0, 0], [39, 29], [0, 0]], np.int32),
        observers=np.array([0, 2, 2], np.int32),
        density=encode_png(np.full((30, 40), 7, np.uint8)),
    )


def replace(sample, **changes):
    return Sample(**{**vars(sample), **changes})


def make_tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def members_of(record):
    with tarfile.open(fileobj=io.BytesIO(record + bytes(1024))) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def test_a_sample_survives_the_tar(sample):
    """The photograph byte for byte, the density map pixel for pixel."""
    density = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    sample = replace(sample, density=encode_png(density))
    back = decode_record(encode_record(sample), "train/a")
    assert (back.key, back.image) == (sample.key, sample.image)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(back.density))), density)
    np.testing.assert_array_equal(back.points, sample.points, strict=True)
    np.testing.assert_array_equal(back.observers, sample.observers, strict=True)


def test_equal_samples_give_equal_bytes_that_are_a_tar(sample):
    record = encode_record(sample)
    assert record == encode_record(replace(sample))
    members = members_of(record)
    assert sorted(members) == ["a.density.png", "a.fixations.npy", "a.jpg"]
    rows = np.load(io.BytesIO(members["a.fixations.npy"]), allow_pickle=False)
    assert rows.dtype == np.int32
    assert rows.tolist() == [[0, 0, 0], [39, 29, 2], [0, 0, 2]]


def test_times_survive_the_tar_and_are_missing_where_there_are_none(sample):
    timing = np.array([[0, 210.5], [np.nan, 180], [400, np.nan]], np.float32)
    back = decode_record(encode_record(replace(sample, timing=timing)), "train/a")
    np.testing.assert_array_equal(back.timing, timing, strict=True)
    assert decode_record(encode_record(sample), "train/a").timing is None


def test_times_of_another_number_of_fixations_are_refused(sample):
    with pytest.raises(ValueError, match=r"timing\.npy has 2 rows for 3 fixations"):
        decode_record(
            encode_record(replace(sample, timing=np.zeros((2, 2), np.float32))), "train/a"
        )


STEMS = (
    "plain|a.b|shot_0.0|.hidden|end.|a.jpg|a.density|100%|a%2Eb|__x__|two words| |größe 1|"
    f"gro\u0308ße 1|写真|{'x' * 150}|{'é' * 90}|UPPER.Lower|a\nb"
).split("|")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("stem", STEMS)
def test_a_sample_of_any_name_is_read_here_and_by_webdataset(sample, stem, kind, tmp_path):
    named = replace(sample, key=f"train/{stem}", image=encode_picture(kind=kind))
    record = encode_record(named)
    assert decode_record(record, named.key).image == named.image
    (tmp_path / "a.tar").write_bytes(record + bytes(TAR_END))
    (found,) = wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)
    assert unquote(found["__key__"]) == stem
    suffix = {"JPEG": "jpg", "PNG": "png"}[kind]
    members = {suffix, "fixations.npy", "density.png", "__key__", "__url__", "__local_path__"}
    assert found.keys() <= members
    assert found[suffix] == named.image


def test_samples_whose_names_differ_only_after_a_dot_stay_apart(sample, tmp_path):
    names = ["shot_0.0", "shot_0.1", "shot_0", "shot_0%2E0"]
    records = [encode_record(replace(sample, key=f"train/{name}")) for name in names]
    (tmp_path / "a.tar").write_bytes(b"".join(records) + bytes(TAR_END))
    found = list(wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [unquote(each["__key__"]) for each in found] == names


@pytest.mark.parametrize("stem", ["", "a/b", "..\\a", "nul\0", "\udcff"])
def test_a_stem_that_cannot_name_a_file_is_refused(sample, stem):
    with pytest.raises(ValueError, match="rename the photograph"):
        encode_record(replace(sample, key=f"train/{stem}"))


def test_a_sample_packed_before_dots_were_escaped_is_still_read(sample):
    content = {
        f"shot.1{name[1:]}": data for name, data in members_of(encode_record(sample)).items()
    }
    assert decode_record(make_tar(content), "train/shot.1").image == sample.image


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([{}]), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"a.jpg": None, "../a.jpg": b""}, r"it holds '\.\./a\.jpg'"),
        ({"a.jpg": None, "b.jpg": b""}, r"it holds 'b\.jpg'"),
        ({"a.density.png": None}, r"holds only \['fixations\.npy', 'jpg'\]"),
        ({"a.png": b""}, "holds only"),
        ({"a.fixations.npy": pickled()}, "allow_pickle"),
        ({"a.timing.npy": b""}, "from its shard"),
    ],
)
def test_a_piece_with_other_members_is_refused(sample, changes, reason):
    content = {**members_of(encode_record(sample)), **changes}
    kept = {name: data for name, data in content.items() if data is not None}
    with pytest.raises(ValueError, match=f"train/a cannot be read.*{reason}"):
        decode_record(make_tar(kept), "train/a")


@pytest.mark.parametrize("length", [0, 100, 600, 3000, -512])
def test_a_cut_piece_is_refused(sample, length):
    with pytest.raises(ValueError, match="train/a cannot be read"):
        decode_record(encode_record(sample)[:length], "train/a")


def test_decoding_gives_the_pixels_and_the_points(sample):
    decoded = decode_pictures(sample)
    np.testing.assert_array_equal(decoded.image, np.asarray(Image.open(io.BytesIO(sample.image))))
    assert decoded.image.shape == (30, 40, 3)
    assert (decoded.density == 7).all()
    assert decoded.points is sample.points


def test_pictures_of_different_sizes_are_refused(sample):
    with pytest.raises(ValueError, match=r"train/a.*\(30, 40\), its density map \(30, 41\)"):
        decode_pictures(replace(sample, density=encode_png(np.ones((30, 41), np.uint8))))


def test_a_point_outside_is_refused(sample):
    with pytest.raises(ValueError, match="train/a: a fixation lies outside"):
        decode_pictures(replace(sample, points=np.array([[40, 0], [0, 0], [0, 0]], np.int32)))
