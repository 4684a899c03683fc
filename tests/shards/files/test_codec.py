from __future__ import annotations

import io
import tarfile
from urllib.parse import unquote

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from emlnet.data.samples import Sample
from shards.files.codec import TAR_END, decode, pack, unpack


@pytest.fixture
def sample(picture, png):
    return Sample(
        key="train/a",
        image=picture(),
        points=np.array([[0, 0], [39, 29], [0, 0]], np.int32),
        observers=np.array([0, 2, 2], np.int32),
        density=png(np.full((30, 40), 7, np.uint8)),
    )


def replace(sample, **changes):
    return Sample(**{**vars(sample), **changes})


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def make_tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def members_of(piece):
    with tarfile.open(fileobj=io.BytesIO(piece + bytes(1024))) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def test_a_sample_survives_the_tar(sample, png):
    """The photograph byte for byte, the density map pixel for pixel."""
    density = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    sample = replace(sample, density=png(density))
    back = unpack(pack(sample), "train/a")
    assert (back.key, back.image) == (sample.key, sample.image)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(back.density))), density)
    np.testing.assert_array_equal(back.points, sample.points, strict=True)
    np.testing.assert_array_equal(back.observers, sample.observers, strict=True)


def test_equal_samples_give_equal_bytes_that_are_a_tar(sample):
    piece = pack(sample)
    assert piece == pack(replace(sample))
    members = members_of(piece)
    assert sorted(members) == ["a.density.png", "a.fixations.npy", "a.jpg"]
    rows = np.load(io.BytesIO(members["a.fixations.npy"]), allow_pickle=False)
    assert rows.dtype == np.int32
    assert rows.tolist() == [[0, 0, 0], [39, 29, 2], [0, 0, 2]]


def test_times_survive_the_tar_and_are_missing_where_there_are_none(sample):
    timing = np.array([[0, 210.5], [np.nan, 180], [400, np.nan]], np.float32)
    back = unpack(pack(replace(sample, timing=timing)), "train/a")
    np.testing.assert_array_equal(back.timing, timing, strict=True)
    assert unpack(pack(sample), "train/a").timing is None


def test_times_of_another_number_of_fixations_are_refused(sample):
    with pytest.raises(ValueError, match=r"timing\.npy is float32 \(2, 2\), not float32 \(3, 2\)"):
        unpack(pack(replace(sample, timing=np.zeros((2, 2), np.float32))), "train/a")


def test_a_png_keeps_its_extension(sample, picture):
    piece = pack(replace(sample, image=picture(kind="PNG")))
    assert "a.png" in members_of(piece)
    assert unpack(piece, "train/a").image == picture(kind="PNG")


STEMS = [
    *(
        "plain",
        "a.b",
        "shot_0.0",
        ".hidden",
        "end.",
        "a.jpg",
        "a.density",
        "100%",
        "a%2Eb",
        "__x__",
    ),
    *(
        "two words",
        " ",
        "größe 1",
        "gro\u0308ße 1",
        "写真",
        "x" * 150,
        "é" * 90,
        "UPPER.Lower",
        "a\nb",
    ),
]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("stem", STEMS)
def test_a_sample_of_any_name_is_read_here_and_by_webdataset(sample, picture, stem, kind, tmp_path):
    named = replace(sample, key=f"train/{stem}", image=picture(kind=kind))
    piece = pack(named)
    assert unpack(piece, named.key).image == named.image
    (tmp_path / "a.tar").write_bytes(piece + bytes(TAR_END))
    (found,) = wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)
    assert unquote(found["__key__"]) == stem
    suffix = {"JPEG": "jpg", "PNG": "png"}[kind]
    members = {suffix, "fixations.npy", "density.png", "__key__", "__url__", "__local_path__"}
    assert found.keys() <= members
    assert found[suffix] == named.image


def test_samples_whose_names_differ_only_after_a_dot_stay_apart(sample, tmp_path):
    names = ["shot_0.0", "shot_0.1", "shot_0", "shot_0%2E0"]
    pieces = [pack(replace(sample, key=f"train/{name}")) for name in names]
    (tmp_path / "a.tar").write_bytes(b"".join(pieces) + bytes(TAR_END))
    found = list(wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [unquote(each["__key__"]) for each in found] == names


@pytest.mark.parametrize("stem", ["", "a/b", "..\\a", "nul\0", "\udcff"])
def test_a_stem_that_cannot_name_a_file_is_refused(sample, stem):
    with pytest.raises(ValueError, match="rename the photograph"):
        pack(replace(sample, key=f"train/{stem}"))


def test_a_sample_packed_before_dots_were_escaped_is_still_read(sample):
    content = {f"shot.1{name[1:]}": data for name, data in members_of(pack(sample)).items()}
    assert unpack(make_tar(content), "train/shot.1").image == sample.image


def test_a_piece_with_a_member_outside_is_refused(sample):
    content = members_of(pack(sample))
    content["../a.jpg"] = content.pop("a.jpg")
    with pytest.raises(ValueError, match=r"train/a cannot be read.*it holds '\.\./a\.jpg'"):
        unpack(make_tar(content), "train/a")


def test_a_piece_of_another_sample_is_refused(sample):
    with pytest.raises(
        ValueError, match=r"train/b cannot be read from its shard: it holds 'a\.density\.png'"
    ):
        unpack(pack(sample), "train/b")


def test_a_piece_without_its_density_is_refused(sample):
    content = members_of(pack(sample))
    del content["a.density.png"]
    with pytest.raises(ValueError, match=r"holds only \['fixations\.npy', 'jpg'\]"):
        unpack(make_tar(content), "train/a")


def test_fixations_that_are_pickled_are_refused(sample):
    content = members_of(pack(sample))
    file = io.BytesIO()
    np.save(file, np.array([{}]), allow_pickle=True)
    content["a.fixations.npy"] = file.getvalue()
    with pytest.raises(ValueError, match="train/a cannot be read"):
        unpack(make_tar(content), "train/a")


@pytest.mark.parametrize("length", [0, 100, 600, 3000, -512])
def test_a_cut_piece_is_refused(sample, length):
    with pytest.raises(ValueError, match="train/a cannot be read"):
        unpack(pack(sample)[:length], "train/a")


def test_decoding_gives_the_pixels_and_the_points(sample):
    decoded = decode(sample)
    np.testing.assert_array_equal(decoded.image, np.asarray(Image.open(io.BytesIO(sample.image))))
    assert decoded.image.shape == (30, 40, 3)
    assert (decoded.density == 7).all()
    assert decoded.points is sample.points


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("L", 9, "PNG", (9, 9, 9)),
        ("CMYK", (0, 0, 0, 0), "JPEG", (255, 255, 255)),
        ("RGBA", (9, 9, 9, 0), "PNG", (255, 255, 255)),
        ("LA", (9, 255), "PNG", (9, 9, 9)),
        ("I;16", 0x9234, "PNG", (0x92, 0x92, 0x92)),
        ("1", 1, "PNG", (255, 255, 255)),
    ],
)
def test_a_photograph_of_any_mode_becomes_rgb(sample, mode, colour, kind, expected):
    image = saved(Image.new(mode, (40, 30), colour), kind)
    decoded = decode(replace(sample, image=image)).image
    assert decoded.dtype == np.uint8
    assert decoded.shape == (30, 40, 3)
    assert (decoded == expected).all()


def test_a_rotated_photograph_is_turned_upright(sample):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    lying = np.zeros((40, 30, 3), np.uint8)
    lying[:20] = 255
    image = saved(Image.fromarray(lying), "JPEG", exif=exif, quality=100)
    decoded = decode(replace(sample, image=image)).image
    assert decoded.shape == (30, 40, 3)
    assert (decoded[:, 22:] > 200).all()
    assert (decoded[:, :18] < 50).all()


def test_a_picture_that_claims_too_many_pixels_is_refused(sample):
    bomb = bytearray(saved(Image.new("RGB", (40, 30)), "JPEG"))
    size = bomb.index(b"\xff\xc0") + 5
    bomb[size : size + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ValueError, match=r"train/a: the photograph cannot be decoded.*pixels"):
        decode(replace(sample, image=bytes(bomb)))


def test_pictures_of_different_sizes_are_refused(sample, png):
    with pytest.raises(ValueError, match=r"train/a.*\(30, 40\), its density map \(30, 41\)"):
        decode(replace(sample, density=png(np.ones((30, 41), np.uint8))))


def test_a_point_outside_is_refused(sample):
    with pytest.raises(ValueError, match="train/a: a fixation lies outside"):
        decode(replace(sample, points=np.array([[40, 0], [0, 0], [0, 0]], np.int32)))
