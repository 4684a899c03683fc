"""Maps from files: each format, and each way in which a folder of maps can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from pipelines.evaluation.score_maps import MapFiles

KEYS = ("val/a", "val/b")
SIZE = (6, 8)


def maps() -> NDArray[np.float64]:
    return np.random.default_rng(0).random((2, *SIZE))


def write_png(folder: Path, name: str, values: NDArray[np.generic]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / name)


def folder_of(tmp_path: Path, values: NDArray[np.generic], names: tuple[str, ...]) -> Path:
    folder = tmp_path / "maps"
    folder.mkdir()
    for name, image in zip(names, values, strict=True):
        np.save(folder / f"{name}.npy", image)
    return folder


def write_mat73(path: Path, values: NDArray[np.generic]) -> None:
    """As MATLAB writes with -v7.3: HDF5 with reversed axes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file["a_number"] = np.array([[3.0]])
        file["saliency"] = values.T


WRITERS: dict[str, Callable[[Path, NDArray[np.generic]], None]] = {
    ".png": lambda path, values: Image.fromarray(values).save(path),
    ".bmp": lambda path, values: Image.fromarray(values).save(path),
    ".TIF": lambda path, values: Image.fromarray(values).save(path, "TIFF"),
    ".tiff": lambda path, values: Image.fromarray(values).save(path),
    ".npy": np.save,
    ".mat": lambda path, values: scipy.io.savemat(path, {"n": 3.0, "saliency": values}),
    "_smap.mat": write_mat73,
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_maps_of_each_format_keep_their_levels_and_are_divided_by_their_greatest(
    tmp_path: Path, suffix: str, dtype: type
) -> None:
    if (suffix, dtype) in ((".bmp", np.uint16), (".bmp", np.float32), (".png", np.float32)):
        pytest.skip("the format has no such numbers")
    values = (maps()[0] * (1 if dtype == np.float32 else np.iinfo(dtype).max)).astype(dtype)
    WRITERS[suffix](tmp_path / f"a{suffix}", values)
    found = MapFiles.find(tmp_path, KEYS[:1]).read(0, SIZE)[0, 0].numpy()
    assert found == pytest.approx(values.astype(np.float64) / values.max(), rel=1e-6)
    assert len(np.unique(found)) == len(np.unique(values))


def test_a_jpeg_is_read(tmp_path: Path) -> None:
    Image.fromarray((maps()[0] * 255).astype(np.uint8)).save(tmp_path / "a.jpg")
    assert MapFiles.find(tmp_path, KEYS[:1]).read(0, SIZE).shape == (1, 1, *SIZE)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.csv", "a"])
def test_an_unknown_format_is_named_with_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"?")
    expected = rf"no map for 1 of 1 .*unknown format: {name}, known: \.png, .*\.mat"
    with pytest.raises(ValueError, match=expected):
        MapFiles.find(tmp_path, KEYS[:1])
    np.save(tmp_path / "a.npy", maps()[0])
    (note,) = MapFiles.find(tmp_path, KEYS[:1]).notes
    assert f"unknown format: {name}, known: .png" in note


@pytest.mark.parametrize(
    ("content", "found"),
    [({"n": "text"}, 0), ({"p": np.ones(SIZE), "q": np.ones(SIZE)}, 2), ({}, 0)],
)
def test_a_mat_file_without_one_largest_matrix_is_refused(
    tmp_path: Path, content: dict[str, object], found: int
) -> None:
    scipy.io.savemat(tmp_path / "a.mat", content)
    with pytest.raises(ValueError, match=rf"a\.mat holds {found} matrices of one size"):
        MapFiles.find(tmp_path, KEYS[:1]).read(0, SIZE)


def test_float64_stays_float64(tmp_path: Path) -> None:
    found = MapFiles.find(folder_of(tmp_path, maps(), ("a", "b")), KEYS)
    assert np.array_equal(found.read(1, SIZE)[0, 0].numpy(), maps()[1] / maps()[1].max())


def test_hdf5_holds_log_densities_named_as_the_pictures(tmp_path: Path) -> None:
    densities = maps() / maps().sum(axis=(1, 2), keepdims=True)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for name, values in zip(("images/a.jpg", "images/b.jpg"), densities, strict=True):
            file[name] = np.log(values)
    found = MapFiles.find(tmp_path / "m.h5", KEYS)
    assert found.kind == "log-density"
    assert found.read(0, SIZE).exp()[0, 0].numpy() == pytest.approx(densities[0])


def test_the_part_of_the_split_and_the_name_of_a_prediction_are_found(tmp_path: Path) -> None:
    for name in ("a_smap.png", "b_smap.png"):
        write_png(tmp_path / "val", name, np.ones(SIZE, np.uint8))
    write_png(tmp_path / "train", "a_smap.png", np.ones(SIZE, np.uint8))
    assert MapFiles.find(tmp_path, KEYS).places == ("a_smap.png", "b_smap.png")


def test_a_map_in_a_folder_is_that_of_the_picture_called_after_both(tmp_path: Path) -> None:
    for folder in ("Action", "Art"):
        write_png(tmp_path / folder, "001_smap.png", np.ones(SIZE, np.uint8))
    found = MapFiles.find(tmp_path, ("val/Art-001", "val/Action-001"))
    assert found.places == ("Art/001_smap.png", "Action/001_smap.png")


def test_missing_maps_are_counted_and_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, maps(), ("a", "other"))
    expected = r"no map for 1 of 2 images \(first: val/b\).*1 maps that belong .*first: other.npy"
    with pytest.raises(ValueError, match=expected):
        MapFiles.find(folder, KEYS)


def test_surplus_maps_are_counted_and_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, np.ones((3, *SIZE)), ("a", "b", "other"))
    (note,) = MapFiles.find(folder, KEYS).notes
    assert "1 maps" in note
    assert "other.npy" in note


def test_two_maps_for_one_image_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, maps(), ("a", "b"))
    write_png(folder, "b.png", np.ones(SIZE, np.uint8))
    with pytest.raises(ValueError, match=r"two maps for val/b: b\.npy and b\.png"):
        MapFiles.find(folder, KEYS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_is_named_with_the_place(tmp_path: Path, value: float) -> None:
    values = maps()
    values[1, 2, 3] = value
    found = MapFiles.find(folder_of(tmp_path, values, ("a", "b")), KEYS)
    with pytest.raises(ValueError, match=r"b\.npy has 1 values .* row 2, column 3"):
        found.read(1, SIZE)


def test_a_log_density_may_be_minus_infinity(tmp_path: Path) -> None:
    values = np.full((2, *SIZE), -np.inf)
    values[:, 0, 0] = 0
    found = MapFiles.find(folder_of(tmp_path, values, ("a", "b")), KEYS, "log-density")
    assert found.read(0, SIZE).exp().sum() == 1


def test_a_map_of_another_size_is_an_error_unless_resizing_is_asked_for(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, maps(), ("a", "b"))
    with pytest.raises(ValueError, match=r"a\.npy is 6 x 8, its picture 12 x 16; give --resize"):
        MapFiles.find(folder, KEYS).read(0, (12, 16))
    assert MapFiles.find(folder, KEYS, resize=True).read(0, (12, 16)).shape == (1, 1, 12, 16)


@pytest.mark.parametrize("kind", ["density", "log-density"])
def test_a_resized_density_sums_to_one_again(tmp_path: Path, kind: str) -> None:
    densities = maps() / maps().sum(axis=(1, 2), keepdims=True)
    values = densities if kind == "density" else np.log(densities)
    folder = folder_of(tmp_path, values, ("a", "b"))
    found = MapFiles.find(folder, KEYS, kind, resize=True).read(0, (12, 16))  # type: ignore[arg-type]
    total = found.sum() if kind == "density" else found.exp().sum()
    assert total.item() == pytest.approx(1)


def test_a_resized_log_density_is_minus_infinity_only_amid_zeros(tmp_path: Path) -> None:
    densities = np.ones((2, *SIZE), np.float32)
    densities[:, 2:, 4:] = 0
    densities /= densities.sum(axis=(1, 2), keepdims=True)
    with np.errstate(divide="ignore"):
        folder = folder_of(tmp_path, np.log(densities), ("a", "b"))
    found = MapFiles.find(folder, KEYS, "log-density", resize=True).read(0, (12, 16))[0, 0]
    assert not found.isnan().any()
    assert found.exp().sum().item() == pytest.approx(1)
    assert found[-1, -1].isneginf()
    assert found[:4].isfinite().all()


@pytest.mark.parametrize(("kind", "what"), [("density", "sums to"), ("log-density", "sums to")])
def test_what_is_no_density_is_refused(tmp_path: Path, kind: str, what: str) -> None:
    found = MapFiles.find(folder_of(tmp_path, maps(), ("a", "b")), KEYS, kind)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"a\.npy is not a {kind}: it {what}"):
        found.read(0, SIZE)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, maps(), ("a", "b"))
    (folder / "a.npy").write_bytes(b"no map")
    with pytest.raises(ValueError, match=r"a\.npy cannot be read"):
        MapFiles.find(folder, KEYS).read(0, SIZE)
    (tmp_path / "m.h5").write_bytes(b"no map")
    with pytest.raises(ValueError, match=r"m\.h5 cannot be read as HDF5"):
        MapFiles.find(tmp_path / "m.h5", KEYS)


def test_a_path_that_is_neither_folder_nor_hdf5_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        MapFiles.find(tmp_path / "none", KEYS)
    (tmp_path / "maps.zip").touch()
    with pytest.raises(ValueError, match=r"unknown format: maps\.zip, known: a folder of \.png"):
        MapFiles.find(tmp_path / "maps.zip", KEYS)
