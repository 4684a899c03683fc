"""Maps of many pictures by Ray tasks: folders and shards, here and in a bucket, resumed."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import s3fs
import torch
from PIL import Image

from emlnet.inference.package import load, save
from emlnet.models.encoder import Encoder, EncoderConfig
from pipelines.commands.models import predict_pictures
from pipelines.commands.models.predict_pictures import PredictCommand, visible
from shards.files.store import Store
from tests.shards.conftest import s3, s3_server  # noqa: F401


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = Encoder(EncoderConfig(backbone="tiny", weights="none", size=(48, 64)))
    return save(tmp_path_factory.mktemp("model") / "package", encoder, {"name": "tiny"})


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Five pictures in two folders, one of them broken, and a text."""
    folder = tmp_path / "album"
    (folder / "deep").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.jpg", "deep/a.png"):
        pixels = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture")
    return folder


def command(source: Path | str, out: Path | str, model: Path, **options: Any) -> PredictCommand:
    return PredictCommand(source=str(source), out=str(out), model=str(model), **options)


@pytest.mark.usefixtures("in_process")
def test_a_folder_is_predicted_and_the_broken_picture_named(
    album: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_pictures.run(command(album, tmp_path / "out", model, format="npy")) == 1
    told = capsys.readouterr()
    assert "could not be read:\n  broken.jpg cannot be decoded" in told.err
    assert "skipped, not in a picture format: 1 file (notes.txt)" in told.err
    assert f"maps in {tmp_path / 'out'}: 4. NAME_smap.npy is the map of NAME\n" in told.out
    assert visible(Store(str(tmp_path / "out"))) == [
        "a_smap.npy", "b_smap.npy", "c_smap.npy", "deep/a_smap.npy", "predict.json",
    ]  # fmt: skip
    expected = load(model).predict(album / "deep" / "a.png").saliency
    np.testing.assert_allclose(np.load(tmp_path / "out/deep/a_smap.npy"), expected, rtol=1e-4)


@pytest.mark.usefixtures("in_process")
def test_what_is_done_is_not_done_again(
    album: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (album / "broken.jpg").unlink()
    out = tmp_path / "out"
    assert predict_pictures.run(command(album, out, model, overlay=True)) == 0
    assert (out / "b_overlay.png").is_file()
    (out / "b_smap.png").unlink()
    before = (out / "a_smap.png").stat().st_mtime_ns
    assert predict_pictures.run(command(album, out, model, overlay=True)) == 0
    assert "4 pictures, 3 done before" in capsys.readouterr().out
    assert (out / "b_smap.png").is_file()
    assert (out / "a_smap.png").stat().st_mtime_ns == before


@pytest.mark.usefixtures("in_process")
def test_another_models_maps_and_strangers_files_are_left_alone(
    album: Path, model: Path, tmp_path: Path
) -> None:
    (album / "broken.jpg").unlink()
    predict_pictures.run(command(album, tmp_path / "out", model))
    with pytest.raises(ValueError, match=r"maps of another run \(flip differ\)"):
        predict_pictures.run(command(album, tmp_path / "out", model, flip=True))
    with pytest.raises(ValueError, match=r"maps of another run \(precision differ\)"):
        predict_pictures.run(command(album, tmp_path / "out", model, precision="half"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(ValueError, match=r"mine holds other files \(thesis\.txt\)"):
        predict_pictures.run(command(album, tmp_path / "mine", model))


@pytest.mark.parametrize("out", ["", "maps"])
@pytest.mark.usefixtures("in_process")
def test_maps_do_not_go_where_they_would_be_taken_for_pictures(
    album: Path, model: Path, out: str
) -> None:
    with pytest.raises(ValueError, match="album: its maps would be taken for pictures"):
        predict_pictures.run(command(album, album / out, model))
    assert not list(album.rglob("predict.json"))


@pytest.mark.parametrize(
    ("precision", "device", "half"),
    [
        ("auto", "cuda", True),
        ("auto", "cpu", False),
        ("half", "cpu", True),
        ("full", "cuda", False),
    ],
)
def test_a_device_computes_in_the_precision_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str, device: str, half: bool
) -> None:
    made = MagicMock()
    monkeypatch.setattr(predict_pictures, "Package", made)
    asked = command("a", "b", tmp_path, precision=precision)
    given, nothing = MagicMock(), np.empty((0, 2), dtype=str)
    predict_pictures.predict_part(
        [], torch.device(device), given, MagicMock(), str(tmp_path), nothing, asked
    )
    given.model.to.assert_called_once_with(torch.device(device))
    assert made.call_args.kwargs["half"] is half


@pytest.mark.usefixtures("in_process")
def test_shards_are_predicted_by_their_keys(data: Path, model: Path, tmp_path: Path) -> None:
    assert predict_pictures.run(command(data, tmp_path / "out", model)) == 0
    names = visible(Store(str(tmp_path / "out")))
    assert len(names) == 16
    assert sum(name.startswith("val/") for name in names) == 3


@pytest.mark.usefixtures("s3")
@pytest.mark.usefixtures("in_process")
def test_a_bucket_is_read_and_written(
    album: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (album / "broken.jpg").unlink()
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.put(str(album), "tests/album", recursive=True)
    assert predict_pictures.run(command("s3://tests/album", "s3://tests/out", model)) == 0
    assert visible(Store("s3://tests/out")) == [
        "a_smap.png", "b_smap.png", "c_smap.png", "deep/a_smap.png", "predict.json",
    ]  # fmt: skip
    capsys.readouterr()
    assert predict_pictures.run(command("s3://tests/album", "s3://tests/out", model)) == 0
    assert "4 pictures, 4 done before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["notes.txt"], "holds no pictures"),
        (["c.png", "c.jpg"], "overwrite each other's maps: c; rename"),
    ],
)
def test_a_folder_of_no_pictures_or_two_of_one_name_is_refused(
    model: Path, tmp_path: Path, files: list[str], message: str
) -> None:
    (tmp_path / "in").mkdir()
    for name in files:
        (tmp_path / "in" / name).touch()
    with pytest.raises(ValueError, match=message):
        predict_pictures.run(command(tmp_path / "in", tmp_path / "out", model))
    assert not (tmp_path / "out").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_ray_tasks_predict_on_the_cluster(album: Path, model: Path, tmp_path: Path) -> None:
    assert predict_pictures.run(command(album, tmp_path / "out", model, batch_size=2)) == 1
    assert len(visible(Store(str(tmp_path / "out")))) == 5
