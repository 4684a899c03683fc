"""`emlnet pull` and `emlnet predict`."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from emlnet.__main__ import main
from emlnet.inference import package


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory, monkeypatch):
    """Commands run in a folder of their own, without a store named by a variable."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def photos(tmp_path):
    """Two pictures of different sizes."""
    random = np.random.default_rng(0)
    paths = []
    for name, size in (("wide.jpg", (40, 70)), ("tall.png", (61, 35))):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths


@pytest.fixture
def model(make_net, tmp_path):
    """The folder of a packaged model."""
    return package.save(tmp_path / "model", make_net(("density", "eml")))


@pytest.fixture
def predict(model, photos, tmp_path):
    """Predicts the pictures; the exit code and the folder of the answers."""

    def predict(*options, images=photos):
        return main(["predict", str(model), *images, "--out", str(tmp_path / "out"), *options])

    return predict


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_pull_fetches_the_champion_and_says_so(store, tmp_path, capsys):
    assert main(["pull", str(tmp_path / "m"), "--tracking-uri", store.uri]) == 0
    assert f"pulled model 1 into {tmp_path / 'm'}" in capsys.readouterr().out
    assert package.load(tmp_path / "m").about["name"] == "model 1"


@pytest.mark.parametrize("how", ["alias", "version", "run"])
def test_pull_takes_an_alias_a_version_or_a_run(store, tmp_path, how):
    value = {"alias": "challenger", "version": "2", "run": store.runs[2]}[how]
    assert main(["pull", str(tmp_path / "m"), f"--{how}", value, "--tracking-uri", store.uri]) == 0
    assert package.load(tmp_path / "m").about["name"] == "model 2"


def test_pull_honours_the_variable(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert main(["pull", str(tmp_path / "m")]) == 0


def test_an_error_is_one_line_and_exit_code_one(tmp_path, capsys):
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    assert main(["pull", str(tmp_path / "m"), "--tracking-uri", uri]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no MLflow store at ")
    assert error.count("\n") == 1


def test_pull_and_predict_with_the_folder_alone(store, photos, tmp_path, monkeypatch):
    assert main(["pull", str(tmp_path / "m"), "--tracking-uri", store.uri]) == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///gone.db")
    assert main(["predict", str(tmp_path / "m"), *photos, "--out", str(tmp_path / "out")]) == 0
    assert names(tmp_path / "out") == ["tall_smap.png", "wide_smap.png"]


def test_predict_takes_a_model_from_the_registry(store, photos, tmp_path):
    command = ["predict", "models:/emlnet@champion", photos[0], "--out", str(tmp_path / "out")]
    assert main([*command, "--tracking-uri", store.uri]) == 0
    assert names(tmp_path / "out") == ["wide_smap.png"]


def test_a_png_is_the_map_at_the_pictures_size_from_0_to_255(predict, tmp_path, capsys):
    assert predict() == 0
    for stem, size in (("wide", (40, 70)), ("tall", (61, 35))):
        drawn = np.asarray(Image.open(tmp_path / "out" / f"{stem}_smap.png"))
        assert drawn.shape == size
        assert drawn.dtype == np.uint8
        assert (drawn.min(), drawn.max()) == (0, 255)
    assert "[2/2]" in capsys.readouterr().out


def test_an_npy_is_the_density_and_a_log_npy_its_logarithm(predict, tmp_path):
    assert predict("--format", "npy") == 0
    density = np.load(tmp_path / "out" / "tall_smap.npy")
    assert predict("--format", "log-npy") == 0
    log_density = np.load(tmp_path / "out" / "tall_smap.npy")
    assert density.shape == log_density.shape == (61, 35)
    assert density.dtype == log_density.dtype == np.float32
    assert density.sum() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(np.exp(log_density), density, rtol=1e-5)


def test_flip_averages_with_the_mirrored_picture(predict, model, photos, tmp_path):
    assert predict("--format", "npy", "--flip") == 0
    expected = package.load(model).predict(photos[0], flip=True).saliency
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "wide_smap.npy"), expected)


def test_an_overlay_is_written_beside_the_map(predict, tmp_path):
    assert predict("--overlay") == 0
    expected = ["tall_overlay.png", "tall_smap.png", "wide_overlay.png", "wide_smap.png"]
    assert names(tmp_path / "out") == expected
    overlay = np.asarray(Image.open(tmp_path / "out" / "wide_overlay.png"))
    assert overlay.shape == (40, 70, 3)


def test_pictures_that_cannot_be_read_are_named_after_the_others_are_done(
    predict, photos, tmp_path, capsys
):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    images = [photos[0], str(tmp_path / "broken.jpg"), str(tmp_path / "gone.png"), photos[1]]
    assert predict(images=images) == 1
    assert names(tmp_path / "out") == ["tall_smap.png", "wide_smap.png"]
    output = capsys.readouterr()
    assert "2 pictures" in output.out
    assert "broken.jpg cannot be decoded" in output.err
    assert "gone.png cannot be read" in output.err


def test_pictures_that_cannot_be_read_are_no_rate(predict, tmp_path, capsys):
    assert predict(images=[str(tmp_path / "gone.png")]) == 1
    said = capsys.readouterr().out
    assert "[1/1] 0.0 pictures a second" in said
    assert "0 pictures, 0.0 a second" in said


def test_pictures_of_one_name_are_refused_before_anything_is_written(
    predict, photos, tmp_path, capsys
):
    (tmp_path / "other").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "other" / "wide.png")
    assert predict(images=[*photos, str(tmp_path / "other" / "wide.png")]) == 1
    assert "would overwrite each other: wide" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_exist_is_an_error(photos, tmp_path, capsys):
    assert main(["predict", "nowhere", photos[0], "--out", str(tmp_path / "out")]) == 1
    assert "error: no model at 'nowhere'" in capsys.readouterr().err


def test_an_out_folder_that_is_a_file_is_an_error(predict, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert predict() == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["pull", "predict"])
def test_help_explains_every_flag(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for flag in {
        "pull": ("--alias", "--version", "--run", "--tracking-uri"),
        "predict": ("--out", "--format", "--flip", "--overlay", "--tracking-uri"),
    }[verb]:
        assert flag in shown
