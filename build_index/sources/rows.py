"""Rows in normal form, whatever file they come from, and the words for those that an index cannot hold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BAD_ROWS_NAMED = 5

# Normal form of each type of value, by its name in numpy (the byte order left out) and in Arrow.
NUMPY_KINDS = {"f8": "f32", "f4": "f32", "f2": "f16", "u1": "u8", "i1": "i8"}
ARROW_KINDS = {
    pa.float64(): "f32",
    pa.float32(): "f32",
    pa.float16(): "f16",
    pa.uint8(): "u8",
    pa.int8(): "i8",
}
DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "u8": np.dtype("u1"),
    "i8": np.dtype("i1"),
}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Some rows that follow each other, in normal form.

    first_row: number of the first row, over all files
    vectors: (n, d), C order, dtype `DTYPES[source.kind]`, finite
    ids: int64 (n,), or n byte strings of 1 to 512 bytes
    attributes: table of n rows with `source.attributes` as its schema
    """

    first_row: int
    vectors: Array
    ids: npt.NDArray[np.int64] | list[bytes]
    attributes: pa.Table


class BadRows(Exception):
    """Rows of one batch (numbered from 0 in it) that an index cannot hold, all for the same reason."""

    def __init__(self, reason: str, rows: list[int]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rows = rows


def refuse(bad: Array | pa.Array, reason: str) -> None:
    """Raises when any row is marked in `bad`, (n,) of booleans."""
    rows = np.flatnonzero(np.asarray(bad)).tolist()
    if rows:
        raise BadRows(reason, rows)
