"""Many pictures: where they come from, what is written for each."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from PIL import Image

import emlnet
from emlnet.__main__ import main
from emlnet.inference import package, predict_files
from tests.emlnet.conftest import noise


@pytest.fixture
def model(make_net, tmp_path):
    """The folder of a packaged model."""
    about = {"name": "birdwatcher"}
    return package.save(tmp_path / "model", make_net(("density", "density")), about)


@pytest.fixture
def album(tmp_path):
    """A folder with pictures of two sizes, one below another, and what is no picture."""
    folder = tmp_path / "album"
    for number, name in enumerate(("a.jpg", "b.png", "deep/a.jpg", "deep/c.webp", ".hidden/x.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise((40 + 10 * (number % 2), 60))).save(path)
    (folder / "notes.txt").write_text("no picture")
    return folder


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def run(model, out, *words):
    return main(["predict", str(model), *map(str, words), "--out", str(out), "--device", "cpu"])


# --- where pictures come from


def test_a_folder_is_searched_its_structure_kept_and_the_last_line_says_where(
    model, album, tmp_path, capsys
):
    assert run(model, tmp_path / "out", album) == 0
    expected = ["a_smap.png", "b_smap.png", "deep/a_smap.png", "deep/c_smap.png"]
    assert names(tmp_path / "out") == expected
    *_, rate, last = capsys.readouterr().out.splitlines()
    assert rate.startswith("[4/4] ")
    assert rate.endswith(" pictures a second")
    assert last == f"maps in {tmp_path}/out: 4. NAME_smap.png is the map of NAME"


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
    for number in range(9):
        (folder / f"z{number}.xmp").touch()
    assert run(model, tmp_path / "out", folder) == 1
    assert names(tmp_path / "out") == [f"{stem}_smap.png" for stem in "abcdef"]
    error = capsys.readouterr().err
    assert (
        "skipped, not in a picture format: 12 files (lost.raw, notes.txt, other.jp2, z0.xmp"
        in error
    )
    assert " and 2 more)" in error
    assert "annex.jpg cannot be read: No such file or directory" in error
    assert "phone.heic cannot be decoded" in error


def test_a_folder_without_pictures_says_what_it_holds(model, tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.cr2").touch()
    assert run(model, tmp_path / "out", tmp_path / "raw") == 1
    assert "raw holds no pictures (JPEG, PNG" in (said := capsys.readouterr().err)
    assert "it holds 1 file (a.cr2)" in said


@pytest.mark.parametrize(
    ("images", "out", "maps"),
    [("album", "album/maps", 4), ("{album}", "album/maps", 4), ("album/deep", "album", 2)],
)
def test_maps_are_not_pictures_of_the_next_run(model, album, monkeypatch, images, out, maps):
    monkeypatch.chdir(album.parent)
    for _ in range(2):
        assert run(model, out, images.format(album=album)) == 0
    assert len([name for name in names(album) if name.endswith("_smap.png")]) == maps


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
        (["*.gif"], "no file matches"),
        (["empty"], "holds no pictures"),
        (["**/a.jpg"], "would overwrite each other's maps: a"),
        (["a.jpg", "deep/a.jpg"], "would overwrite each other's maps: a"),
    ],
)
def test_nothing_to_do_or_two_of_a_name_is_an_error(model, album, tmp_path, given, message, capsys):
    (album / "empty").mkdir()
    assert run(model, tmp_path / "out", *(album / each for each in given)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- what is written


def test_a_png_is_the_map_at_the_pictures_size_in_8_or_16_bits(model, album, tmp_path):
    expected = emlnet.load(model).predict(album / "b.png").grey()
    for words, most, tolerance in (((), 255, 0.003), (("--format", "png16"), 65535, 1e-4)):
        assert run(model, tmp_path / "out", album / "b.png", *words) == 0
        drawn = np.asarray(Image.open(tmp_path / "out" / "b_smap.png"))
        assert (drawn.shape, drawn.min(), drawn.max()) == ((50, 60), 0, most)
        np.testing.assert_allclose(drawn / most, expected, atol=tolerance)


def test_an_npy_is_the_density_and_a_log_npy_its_logarithm(model, album, tmp_path):
    answers = []
    for kind in ("npy", "log-npy"):
        assert run(model, tmp_path / kind, album / "b.png", "--format", kind, "--flip") == 0
        answers.append(np.load(tmp_path / kind / "b_smap.npy"))
    density, log_density = answers
    assert density.dtype == log_density.dtype == np.float32
    assert density.sum() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(np.exp(log_density), density, rtol=1e-5)
    expected = emlnet.load(model).predict(album / "b.png", flip=True).saliency
    np.testing.assert_array_equal(density, expected)


def test_batches_change_nothing(model, album, tmp_path):
    for size in (1, 3):
        options = ("--batch-size", size, "--format", "npy")
        assert run(model, tmp_path / str(size), album, *options) == 0
    for name in names(tmp_path / "1"):
        one, three = (np.load(tmp_path / size / name) for size in ("1", "3"))
        np.testing.assert_allclose(one, three, rtol=1e-3, atol=1e-8)


def test_each_output_file_is_written_under_its_name(model, album, tmp_path):
    picture = album / "a.jpg"
    assert run(model, tmp_path / "1", picture, "--overlay", "--contour", "--figure") == 0
    assert names(tmp_path / "1") == ["a_figure.png", "a_overlay.png", "a_smap.png"]
    assert run(model, tmp_path / "2", picture, "--contour") == 0
    assert names(tmp_path / "2") == ["a_contour.png", "a_smap.png"]
    assert run(model, tmp_path / "3", picture, "--overlay") == 0
    plain, lined = (Image.open(tmp_path / k / "a_overlay.png") for k in "31")
    assert np.abs(np.asarray(plain).astype(int) - np.asarray(lined)).max() > 50
    assert Image.open(tmp_path / "1" / "a_figure.png").height == 40 + 2 * 28


def test_maps_on_one_scale_are_drawn_from_0_to_the_highest_value_of_all(
    model, album, tmp_path, monkeypatch
):
    captions = []
    real = predict_files.side_by_side
    monkeypatch.setattr(
        predict_files, "side_by_side", lambda p, caption: captions.append(caption) or real(p)
    )
    pictures = album / "a.jpg", album / "b.png"
    assert (
        run(model, tmp_path / "out", *pictures, "--same-scale", "--figure", "--format", "png16")
        == 0
    )
    loaded = emlnet.load(model)
    times_uniform = [each.saliency * each.saliency.size for each in map(loaded.predict, pictures)]
    top = max(values.max() for values in times_uniform)
    for stem, values in zip("ab", times_uniform, strict=True):
        drawn = np.asarray(Image.open(tmp_path / "out" / f"{stem}_smap.png")) / 65535
        np.testing.assert_allclose(drawn, values / top, atol=1e-3)
    first = min(captions)  # Two threads write the figures.
    assert first.startswith("a, by birdwatcher. Dark to light: 0 to ")
    assert first.endswith(" times a uniform density, the same for all pictures")
    assert run(model, tmp_path / "out", *pictures, "--figure") == 0
    assert captions[-1].endswith("Dark to light: the map's minimum to its maximum")


def test_a_turned_photograph_is_drawn_upright(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise((40, 60))).save(tmp_path / "a.jpg", exif=exif)
    assert run(model, tmp_path / "out", tmp_path / "a.jpg", "--overlay") == 0
    for name in names(tmp_path / "out"):
        assert Image.open(tmp_path / "out" / name).size == (40, 60)


def test_half_precision_on_request(model, album, tmp_path):
    for precision in ("auto", "half"):
        options = ("--precision", precision, "--format", "log-npy")
        assert run(model, tmp_path / precision, album / "a.jpg", *options) == 0
    full, half = (np.load(tmp_path / p / "a_smap.npy") for p in ("auto", "half"))
    assert 0 < np.abs(full - half).max() < 0.1


def test_pictures_that_cannot_be_read_are_named_after_the_others_are_done(
    model, album, tmp_path, capsys
):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    wrong = tmp_path / "broken.jpg", tmp_path / "gone.png"
    assert run(model, tmp_path / "out", album / "a.jpg", *wrong, album / "b.png") == 1
    assert names(tmp_path / "out") == ["a_smap.png", "b_smap.png"]
    error = capsys.readouterr().err
    assert "broken.jpg cannot be decoded" in error
    assert "gone.png cannot be read" in error
    assert run(model, tmp_path / "out", *wrong) == 1
    assert "[2/2] 0.0 pictures a second" in capsys.readouterr().out


def test_a_full_disk_or_a_file_in_the_folders_place_is_told_in_one_line(
    model, album, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("mine")
    assert run(model, tmp_path / "file", album) == 1
    assert "error: [Errno 17] File exists" in capsys.readouterr().err

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predict_files, "_save", full)
    assert run(model, tmp_path / "out", album) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last == "error: [Errno 28] No space left on device"
