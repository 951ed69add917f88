"""NumPy's .npy: one 2-D array, rows of one length after a header."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vantage.errors import InputError

from .rows import NUMPY_KINDS, Array


def header(path: Path) -> tuple[tuple[int, int], np.dtype[np.generic], int]:
    """Shape, dtype and byte offset of the values; the layout is numpy.lib.format's."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            offset = file.tell()
            room = path.stat().st_size - offset
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as .npy: {error}") from None
    if len(shape) != 2 or fortran:
        raise InputError(
            f"{path} holds an array of shape {shape}{' in Fortran order' if fortran else ''}",
            hint="save a 2-D array in C order, one row a vector",
        )
    if dtype.str[1:] not in NUMPY_KINDS:
        raise InputError(f"{path} holds values of type {dtype}", hint="vectors are f16, f32, f64, u8 or i8")
    if room < shape[0] * shape[1] * dtype.itemsize:
        raise InputError(f"{path} is cut short: {room} bytes of values for shape {shape} of {dtype}")
    return (shape[0], shape[1]), dtype, offset


def batches(path: Path, rows_max: int) -> Iterator[Array]:
    # Read, not mapped: mapped pages would count as this process's memory.
    (rows, dimension), dtype, offset = header(path)
    with path.open("rb") as file:
        file.seek(offset)
        for first in range(0, rows, rows_max):
            count = min(rows_max, rows - first)
            values = np.fromfile(file, dtype, count * dimension)
            if len(values) < count * dimension:
                raise InputError(f"{path} was cut short while it was read")
            yield values.reshape(count, dimension)
