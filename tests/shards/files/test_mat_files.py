from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.io

from shards.files.mat_files import items, read_mat


def write_hdf5(path, content):
    """A .mat file of version 7.3: axes reversed, cells and structs by reference."""
    with h5py.File(path, "w", userblock_size=512) as file:

        def put(parent, name, value):
            if isinstance(value, str):
                codes = np.array([[ord(letter)] for letter in value], np.uint16)
                parent.create_dataset(name, data=codes).attrs["MATLAB_class"] = np.bytes_("char")
            elif isinstance(value, dict):
                group = parent.create_group(name)
                for field, inner in value.items():
                    put(group, field, inner)
            elif isinstance(value, list):
                links = parent.create_dataset(name, (1, len(value)), h5py.ref_dtype)
                for number, inner in enumerate(value):
                    own = f"{parent.name.strip('/').replace('/', '-')}{name}{number}"
                    put(file.require_group("#refs#"), own, inner)
                    links[0, number] = file["#refs#"][own].ref
            elif not np.size(value):
                empty = parent.create_dataset(name, data=np.array(np.shape(value), np.uint64))
                empty.attrs["MATLAB_empty"] = 1
            else:
                parent.create_dataset(name, data=np.atleast_2d(value).T)

        for name, value in content.items():
            put(file, name, value)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\x02IM")
    return path


def test_a_matrix_is_the_same_in_both_versions(tmp_path):
    matrix = np.arange(6, dtype=np.uint8).reshape(2, 3)
    scipy.io.savemat(tmp_path / "5.mat", {"a": matrix, "b": 7})
    write_hdf5(tmp_path / "7.mat", {"a": matrix, "b": np.array(7.0)})
    for path in sorted(tmp_path.iterdir()):
        found = read_mat(path, "x.mat")
        np.testing.assert_array_equal(found["a"], matrix)
        assert found["b"] == 7


def test_cells_structs_text_and_empty_values_of_version_7_3_are_read(tmp_path):
    cells = [{"img": "a.jpg", "x": np.array([[1.0, 2.0]])}, {"img": "b.jpg", "x": np.empty((0, 2))}]
    path = write_hdf5(tmp_path / "a.mat", {"cells": cells, "one": {"n": np.array(3.0)}})
    found = read_mat(path, "a.mat", ("cells", "one"))
    assert [cell["img"] for cell in items(found["cells"])] == ["a.jpg", "b.jpg"]
    assert [np.shape(cell["x"]) for cell in found["cells"]] == [(1, 2), (0, 2)]
    assert found["one"] == {"n": 3}


def test_an_array_of_structs_of_version_7_3_is_a_list(tmp_path):
    struct = {"fixations": [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0]])]}
    first, second = read_mat(write_hdf5(tmp_path / "a.mat", {"gaze": struct}), "a.mat")["gaze"]
    assert first["fixations"].tolist() == [[1, 2], [3, 4]]
    assert second["fixations"].tolist() == [[5, 6]]


def test_a_link_to_another_file_is_refused(tmp_path):
    write_hdf5(tmp_path / "other.mat", {"a": np.ones((2, 2))})
    path = write_hdf5(tmp_path / "a.mat", {"b": np.ones((2, 2))})
    with h5py.File(path, "r+") as file:
        file["a"] = h5py.ExternalLink("other.mat", "/a")
    with pytest.raises(ValueError, match=r"a\.mat is not a \.mat file with a: .*in another file"):
        read_mat(path, "a.mat", ("a",))


def test_a_variable_that_is_missing_is_named(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"b": 1})
    with pytest.raises(ValueError, match=r"a\.mat is not a \.mat file with a and b: KeyError"):
        read_mat(tmp_path / "a.mat", "a.mat", ("a", "b"))
