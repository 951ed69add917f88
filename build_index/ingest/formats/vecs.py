""".fvecs, .bvecs and .ivecs of the TEXMEX sets: each row is its length, i32 little-endian, then so many values."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError

from .address import shown, suffix_of
from .batch import Array

VALUES: dict[str, np.dtype[Any]] = {".fvecs": np.dtype("<f4"), ".bvecs": np.dtype("u1"), ".ivecs": np.dtype("<i4")}
DIMENSION_MAX = 1 << 20  # beyond it, the file is of another kind


def header(path: Path) -> tuple[tuple[int, int], np.dtype[np.generic], int]:
    """Layout, dtype, and 0; from the first row's length and the file's size. Raises InputError."""
    dtype = VALUES[suffix_of(path)]
    try:
        with path.open("rb") as file:
            first = file.read(4)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read: {error.strerror or error}") from None
    if not size:
        return (0, 0), dtype, 0
    if len(first) < 4:
        raise InputError(f"{shown(path)} is cut short: it has {size} bytes")
    dimension = int.from_bytes(first, "little", signed=True)
    if not 0 < dimension <= DIMENSION_MAX:
        raise InputError(f"{shown(path)} is no {path.suffix} file: its first row has {dimension} values")
    width = 4 + dimension * dtype.itemsize
    if size % width:
        raise InputError(
            f"{shown(path)} is cut short, or its rows differ in length: {size} bytes are not rows of {width}",
            hint="copy it again; every row needs the dimension of the first one",
        )
    return (size // width, dimension), dtype, 0


def batches(path: Path, rows_max: int) -> Iterator[Array]:
    """(n, d) of the file's own type, n at most rows_max. Raises InputError for a row of another length."""
    (rows, dimension), dtype, _ = header(path)
    record = np.dtype([("length", "<i4"), ("values", dtype, (dimension,))])
    with path.open("rb") as file:
        for first in range(0, rows, rows_max):
            count = min(rows_max, rows - first)
            records = np.fromfile(file, record, count)
            if len(records) < count:
                raise InputError(f"{shown(path)} was cut short while it was read")
            odd = np.flatnonzero(records["length"] != dimension)
            if len(odd):
                row = int(odd[0])
                raise InputError(
                    f"{shown(path)} row {first + row} has {records['length'][row]} values, the first row {dimension}",
                    hint="the file is damaged, or its rows differ in length",
                )
            yield records["values"]


def neighbors(path: Path, rows: int) -> npt.NDArray[np.int32]:
    """i32 (rows, k) of an .ivecs file: row numbers of the first queries' neighbours. Raises InputError."""
    (count, _), _, _ = header(path)
    if count < rows:
        raise InputError(f"{shown(path)} has neighbors of {count} queries, there are {rows}")
    return next(batches(path, rows)).astype(np.int32)
