"""NumPy's .npy: one 2-D array, rows of one length after a header."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vantage.errors import InputError

from .address import shown
from .batch import NUMPY_KINDS, VALUES, Array


def header(path: Path) -> tuple[tuple[int, int], np.dtype[np.generic], int]:
    """Shape, dtype and byte offset of the values; the layout is numpy.lib.format's. Raises InputError."""
    shape, _, dtype, offset = _header(path)
    if len(shape) != 2:
        raise InputError(f"{shown(path)} holds an array of shape {shape}", hint="save a 2-D array, one row a vector")
    return (shape[0], shape[1]), dtype, offset


def is_one_vector(path: Path) -> bool:
    """Whether the array is 1-D: as a query, it is one vector. Raises InputError."""
    return len(_header(path)[0]) == 1


def one_vector(path: Path) -> Array:
    """(1, d) of a 1-D array. Raises InputError."""
    shape, _, dtype, offset = _header(path)
    return np.fromfile(path, dtype, shape[0], offset=offset).reshape(1, -1)


def batches(path: Path, rows_max: int) -> Iterator[Array]:
    # Read, not mapped: mapped pages would count as this process's memory.
    (rows, dimension), dtype, offset = header(path)
    columns_first = _header(path)[1]
    with path.open("rb") as file:
        file.seek(offset)
        for first in range(0, rows, rows_max):
            count = min(rows_max, rows - first)
            if not columns_first:
                values = np.fromfile(file, dtype, count * dimension).reshape(-1, max(1, dimension))
            else:
                values = np.empty((count, dimension), dtype)
                for column in range(dimension):
                    file.seek(offset + (column * rows + first) * dtype.itemsize)
                    flat = np.fromfile(file, dtype, count)
                    values = values if len(flat) == count else values[:0]
                    values[:, column] = flat[: len(values)]
            if len(values) < count:
                raise InputError(f"{shown(path)} was cut short while it was read")
            yield values


def _header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Shape, whether columns lie together (Fortran's order), dtype, and byte offset of the values."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, columns_first, dtype = read(file)
            offset = file.tell()
            room = path.stat().st_size - offset
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(path)} cannot be read as .npy: {error}") from None
    if dtype.str[1:] not in NUMPY_KINDS:
        raise InputError(f"{shown(path)} holds values of type {dtype}", hint=VALUES)
    if min(shape, default=0) < 0:
        raise InputError(f"{shown(path)} cannot be read as .npy: its shape is {shape}")
    nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if room < nbytes:
        raise InputError(f"{shown(path)} is cut short: {room} bytes of values for shape {shape} of {dtype}")
    if room > nbytes:
        raise InputError(
            f"{shown(path)} goes on after its array, by {room - nbytes} bytes", hint="save one array a file"
        )
    return shape, columns_first, dtype, offset
