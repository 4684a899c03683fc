"""Many pictures: where they come from, what is written for each."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from PIL import Image

from emlnet.__main__ import main
from emlnet.inference import package, predict_files


def noise(size=(40, 60), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture
def model(make_net, tmp_path):
    """The folder of a packaged model."""
    return package.save(tmp_path / "model", make_net(("density", "density")))


@pytest.fixture
def album(tmp_path):
    """A folder with pictures of two sizes, one below another, and what is no picture."""
    folder = tmp_path / "album"
    for number, name in enumerate(("a.jpg", "b.png", "deep/a.jpg", "deep/c.webp", ".hidden/x.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise((40 + 10 * (number % 2), 60), number)).save(path)
    (folder / "notes.txt").write_text("no picture")
    return folder


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def run(model, out, *words):
    return main(["predict", str(model), *map(str, words), "--out", str(out), "--device", "cpu"])


def test_a_folder_is_searched_and_its_shape_kept(model, album, tmp_path):
    assert run(model, tmp_path / "out", album) == 0
    expected = ["a_smap.png", "b_smap.png", "deep/a_smap.png", "deep/c_smap.png"]
    assert names(tmp_path / "out") == expected


def test_what_a_folder_holds_is_predicted_or_named(model, tmp_path, capsys):
    folder = tmp_path / "mixed"
    folder.mkdir()
    smooth = Image.fromarray(noise((4, 6))).resize((60, 40))
    for name in ("a.jpe", "b.JFIF", "c.avif", "d.tiff", "e.pgm", "f.webp"):
        kind = "JPEG" if name[0] in "ab" else None
        smooth.convert("L" if name[0] == "e" else "RGB").save(folder / name, kind)
    smooth.save(folder / "other.jp2")
    (folder / "notes.txt").write_text("mine")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    (folder / "annex.jpg").symlink_to("/no/such/object")
    (folder / "lost.raw").symlink_to("/no/such/object")
    assert run(model, tmp_path / "out", folder) == 1
    assert names(tmp_path / "out") == [f"{stem}_smap.png" for stem in "abcdef"]
    output = capsys.readouterr()
    assert "left out, of other formats: 3 files (lost.raw, notes.txt, other.jp2)" in output.err
    assert "annex.jpg cannot be read: No such file or directory" in output.err
    assert "phone.heic cannot be decoded" in output.err
    assert "6 pictures, " in output.out


def test_a_long_list_of_what_is_left_out_is_counted(model, album, tmp_path, capsys):
    for number in range(12):
        (album / f"{number:02}.xmp").touch()
    assert run(model, tmp_path / "out", album) == 0
    assert "13 files (00.xmp, 01.xmp, " in (said := capsys.readouterr().err)
    assert " and 3 more)" in said


def test_a_folder_without_pictures_says_what_it_holds(model, tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.cr2").touch()
    assert run(model, tmp_path / "out", tmp_path / "raw") == 1
    assert "raw holds no pictures (JPEG, PNG" in (said := capsys.readouterr().err)
    assert "it holds 1 file (a.cr2)" in said


def test_maps_inside_the_folder_are_not_pictures_of_the_next_run(model, album):
    for _ in range(2):
        assert run(model, album / "maps", album) == 0
    assert len(names(album / "maps")) == 4


def test_a_folder_below_the_one_for_the_maps_is_searched(model, album, monkeypatch):
    monkeypatch.chdir(album)
    assert run(model, ".", "deep") == 0
    assert {"a_smap.png", "c_smap.png"} <= set(names(album))


def test_maps_named_by_a_relative_path_are_no_pictures_of_an_absolute_folder(
    model, album, monkeypatch
):
    monkeypatch.chdir(album.parent)
    for _ in range(2):
        assert run(model, "album/maps", album) == 0
    assert len(names(album / "maps")) == 4


def test_maps_do_not_go_among_the_pictures(model, album, monkeypatch, capsys):
    monkeypatch.chdir(album.parent)
    before = names(album)
    assert run(model, "album", album) == 1
    assert "album is the folder of the pictures, so the next run" in capsys.readouterr().err
    assert names(album) == before


def test_a_pattern_is_spread_out(model, album, tmp_path):
    assert run(model, tmp_path / "out", album / "*.[jp]*g") == 0
    assert names(tmp_path / "out") == ["a_smap.png", "b_smap.png"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("*.gif", "no file matches"),
        (".", "holds no pictures"),
        ("**/a.jpg", "would overwrite each other: a"),
    ],
)
def test_nothing_to_do_or_two_of_a_name_is_an_error(model, album, tmp_path, given, message, capsys):
    (tmp_path / "empty").mkdir()
    where = tmp_path / "empty" if given == "." else album / given
    assert run(model, tmp_path / "out", where) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_batches_change_nothing(model, album, tmp_path):
    for size in (1, 3):
        options = ("--batch-size", size, "--format", "npy")
        assert run(model, tmp_path / str(size), album, *options) == 0
    for name in names(tmp_path / "1"):
        one, three = (np.load(tmp_path / size / name) for size in ("1", "3"))
        np.testing.assert_allclose(one, three, rtol=1e-3, atol=1e-8)


def test_a_png_of_16_bits_is_the_map_in_finer_steps(model, album, tmp_path):
    assert run(model, tmp_path / "8", album / "a.jpg") == 0
    assert run(model, tmp_path / "16", album / "a.jpg", "--format", "png16") == 0
    coarse = np.asarray(Image.open(tmp_path / "8" / "a_smap.png"))
    fine = np.asarray(Image.open(tmp_path / "16" / "a_smap.png"))
    assert fine.max() == 65535
    np.testing.assert_allclose(fine / 65535, coarse / 255, atol=0.003)


def test_each_drawing_is_written_under_its_name(model, album, tmp_path):
    picture = album / "a.jpg"
    assert run(model, tmp_path / "1", picture, "--overlay", "--contour", "--figure") == 0
    assert names(tmp_path / "1") == ["a_figure.png", "a_overlay.png", "a_smap.png"]
    assert run(model, tmp_path / "2", picture, "--contour") == 0
    assert names(tmp_path / "2") == ["a_contour.png", "a_smap.png"]
    assert run(model, tmp_path / "3", picture, "--overlay") == 0
    plain, lined = (Image.open(tmp_path / k / "a_overlay.png") for k in "31")
    assert np.abs(np.asarray(plain).astype(int) - np.asarray(lined)).max() > 50
    assert Image.open(tmp_path / "1" / "a_figure.png").width == 3 * 60 + 2 * 8


def test_a_turned_photograph_is_drawn_upright(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise()).save(tmp_path / "a.jpg", exif=exif)
    assert run(model, tmp_path / "out", tmp_path / "a.jpg", "--overlay") == 0
    for name in names(tmp_path / "out"):
        assert Image.open(tmp_path / "out" / name).size == (40, 60)


def test_half_precision_on_request(model, album, tmp_path):
    for precision in ("auto", "half"):
        options = ("--precision", precision, "--format", "log-npy")
        assert run(model, tmp_path / precision, album / "a.jpg", *options) == 0
    full, half = (np.load(tmp_path / p / "a_smap.npy") for p in ("auto", "half"))
    assert 0 < np.abs(full - half).max() < 0.1


def test_a_device_that_is_not_here_is_an_error(model, album, tmp_path, capsys):
    words = ["predict", str(model), str(album), "--out", str(tmp_path / "o"), "--device", "cuda:99"]
    assert main(words) == 1
    assert "device 'cuda:99' is not here" in capsys.readouterr().err


def test_a_full_disk_is_told_in_one_line(model, album, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predict_files, "_save", full)
    assert run(model, tmp_path / "out", album) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last == "error: [Errno 28] No space left on device"


def test_the_rate_is_said(model, album, tmp_path, capsys):
    assert run(model, tmp_path / "out", album) == 0
    said = capsys.readouterr().out
    assert "[4/4]" in said
    assert "4 pictures, " in said
    assert " a second" in said


def test_pictures_are_read_a_few_ahead_of_their_use():
    started = []
    with predict_files.ThreadPoolExecutor(1) as pool:
        answers = predict_files.ahead(pool, lambda n: started.append(n) or n, range(100), 5)
        assert [next(answers) for _ in range(10)] == list(range(10))
        assert len(started) <= 15
        assert list(answers) == list(range(10, 100))
