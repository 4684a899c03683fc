"""Maps from files: each format, and each way in which a folder of maps can be wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from pipelines.evaluation.score_maps import MapFiles, MapKind

KEYS = ("val/a", "val/b")
SIZE = (6, 8)


def maps() -> NDArray[np.float64]:
    return np.random.default_rng(0).random((2, *SIZE))


def write_png(folder: Path, name: str, values: NDArray[np.generic]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / name)


def folder_of(tmp_path: Path, values: NDArray[np.generic], names: Sequence[str]) -> Path:
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


def save_picture(path: Path, values: NDArray[np.generic]) -> None:
    Image.fromarray(values).save(path)


WRITERS: dict[str, Callable[[Path, NDArray[np.generic]], None]] = {
    ".png": save_picture,
    ".bmp": save_picture,
    ".TIF": save_picture,
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
    with pytest.raises(ValueError, match=rf"a\.mat: expected one largest matrix, found {found}"):
        MapFiles.find(tmp_path, KEYS[:1]).read(0, SIZE)


def test_hdf5_holds_log_densities_named_as_the_pictures(tmp_path: Path) -> None:
    densities = maps() / maps().sum(axis=(1, 2), keepdims=True)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for name, values in zip(("images/a.jpg", "images/b.jpg"), densities, strict=True):
            file[name] = np.log(values)
    found = MapFiles.find(tmp_path / "m.h5", KEYS)
    assert found.kind == "log-density"
    assert found.read(0, SIZE).exp()[0, 0].numpy() == pytest.approx(densities[0])


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


def test_maps_are_found_by_split_folder_and_ending(tmp_path: Path) -> None:
    for name in ("train/a_smap.png", "val/b.png", "val/a_smap.png", "val/Art/001_smap.png"):
        write_png((tmp_path / name).parent, Path(name).name, np.ones(SIZE, np.uint8))
    found = MapFiles.find(tmp_path, ("val/a", "val/b", "val/Art-001"))
    assert found.places == ("a_smap.png", "b.png", "Art/001_smap.png")


def test_missing_and_surplus_maps_are_counted_and_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, maps(), ("a", "other"))
    surplus = r"1 maps that match no image of the split \(first: other\.npy\)"
    with pytest.raises(ValueError, match=rf"no map for 1 of 2 .*\(first: val/b\).*{surplus}"):
        MapFiles.find(folder, KEYS)
    (note,) = MapFiles.find(folder, KEYS[:1]).notes
    assert re.search(surplus, note)


@pytest.mark.parametrize("kind", ["saliency", "density", "log-density"])
def test_a_map_of_another_size_is_an_error_unless_resizing_is_asked_for(
    tmp_path: Path, kind: MapKind
) -> None:
    densities = maps() / maps().sum(axis=(1, 2), keepdims=True)
    folder = folder_of(tmp_path, np.log(densities) if kind == "log-density" else densities, "ab")
    with pytest.raises(ValueError, match=r"a\.npy is 6 x 8, its picture 12 x 16; pass --resize"):
        MapFiles.find(folder, KEYS, kind).read(0, (12, 16))
    found = MapFiles.find(folder, KEYS, kind, resize=True).read(0, (12, 16))
    assert found.shape == (1, 1, 12, 16)
    if kind != "saliency":
        assert (found.exp() if kind == "log-density" else found).sum().item() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["density", "log-density"])
def test_what_is_no_density_is_refused(tmp_path: Path, kind: MapKind) -> None:
    found = MapFiles.find(folder_of(tmp_path, maps(), "ab"), KEYS, kind)
    with pytest.raises(ValueError, match=rf"a\.npy is not a {kind}: it sums to"):
        found.read(0, SIZE)
