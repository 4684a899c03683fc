"""Read .mat files of every MATLAB version as plain Python values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emlnet.data.images import MAX_PIXELS


def read_mat(path: Path, name: str, variables: Sequence[str] = ()) -> dict[str, Any]:
    """Read the named variables of a .mat file, or all.

    name: the file's name in error messages.  A struct becomes a dict, an array of structs or a cell
    array a list, text a str, numbers a scalar or an array.
    Raises ValueError starting with `name` if the file cannot be read or lacks a variable.
    """
    import h5py
    import scipy.io

    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                found = variables or [key for key in file if not key.startswith("#")]
                return {variable: _from_hdf5(file, file[variable]) for variable in found}
        content: dict[str, Any] = scipy.io.loadmat(
            str(path), variable_names=tuple(variables) or None, simplify_cells=True
        )
        found = variables or [key for key in content if not key.startswith("__")]
        return {variable: content[variable] for variable in found}
    except Exception as error:  # scipy and h5py raise many kinds of errors for a broken file
        wanted = f" with {' and '.join(variables)}" if variables else ""
        raise ValueError(f"{name} is not a .mat file{wanted}: {error!r}") from error


def read_matrix(path: Path, name: str) -> NDArray[Any]:
    """Return the largest matrix (H, W) of numbers in a .mat file.

    Raises ValueError starting with `name` when there is none, or several are the largest.
    """
    matrices = [
        value
        for value in read_mat(path, name).values()
        if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "biuf"
    ]
    size = max((matrix.size for matrix in matrices), default=0)
    largest = [matrix for matrix in matrices if matrix.size == size]
    if len(largest) != 1:
        raise ValueError(f"{name}: expected one largest matrix, found {len(largest)}")
    return largest[0]


def items(value: Any) -> list[Any]:
    """Return the elements of a cell or struct array as a list, even if there is only one."""
    return list(value) if isinstance(value, list | tuple | np.ndarray) else [value]


def _from_hdf5(file: Any, node: Any) -> Any:
    """Convert a variable of version 7.3, which is HDF5 with the axes reversed."""
    import h5py

    if node.file.filename != file.filename:
        raise ValueError(f"{node.name} is in another file")
    if isinstance(node, h5py.Group):
        fields = {field: _from_hdf5(file, node[field]) for field in node}
        if fields and all(isinstance(values, list) for values in fields.values()):
            rows = zip(*fields.values(), strict=True)
            return [dict(zip(fields, row, strict=True)) for row in rows]
        return fields
    if node.external:
        raise ValueError(f"the values of {node.name} are in another file")
    if node.size > MAX_PIXELS:
        raise ValueError(f"{node.name} has {node.size:,} values, more than {MAX_PIXELS:,}")
    if h5py.check_ref_dtype(node.dtype) is not None:
        return [_from_hdf5(file, file[reference]) for reference in np.asarray(node).T.ravel("F")]
    if "MATLAB_empty" in node.attrs:  # The dataset holds the sizes instead.
        return np.empty(np.asarray(node).astype(int))
    values = np.asarray(node).T
    if node.attrs.get("MATLAB_class") == b"char":
        return "".join(map(chr, values.ravel()))
    return values.squeeze() if values.size == 1 else values
