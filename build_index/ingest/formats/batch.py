"""Rows in normal form, whatever file they come from, and how those that an index cannot hold are named."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BAD_ROWS_NAMED = 5

# Normal form of each type of value, by its name in numpy (the byte order left out) and in Arrow. Whole numbers of more
# than 8 bits become f32, where it holds them.
NUMPY_KINDS = {"f8": "f32", "f4": "f32", "f2": "f16", "u1": "u8", "i1": "i8"} | {
    f"{sign}{width}": "f32" for sign in "iu" for width in (2, 4, 8)
}
VALUES = "values are f16, f32, f64, or whole numbers"
WHOLE_MAX = 1 << 24  # up to it, f32 holds every whole number
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

    rows: int64 (n,), rising: their numbers over all files; they follow each other where none was left out
    vectors: (n, d), C order, dtype `DTYPES[source.kind]`, finite
    ids: int64 (n,), or n byte strings of 1 to 512 bytes
    attributes: table of n rows with `source.attributes` as its schema
    """

    rows: npt.NDArray[np.int64]
    vectors: Array
    ids: npt.NDArray[np.int64] | list[bytes]
    attributes: pa.Table


@dataclass
class Skipped:
    """Rows that were left out: for each reason how many, and the numbers of the first five."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[int]] = field(default_factory=dict)

    def add(self, reason: str, rows: npt.NDArray[np.int64]) -> None:
        """Counts `rows`, numbers over all files, as wrong for `reason`."""
        self.counts[reason] = self.counts.get(reason, 0) + len(rows)
        named = self.first.setdefault(reason, [])
        named += rows[: BAD_ROWS_NAMED - len(named)].tolist()

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, dict[str, object]]:
        """For --json and the manifest."""
        return {reason: {"rows": count, "first": self.first[reason]} for reason, count in self.counts.items()}


class BadRows(Exception):
    """Rows of one batch (numbered from 0 in it) that an index cannot hold, all for the same reason."""

    def __init__(self, reason: str, rows: list[int]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rows = rows


def whole_numbers_fit(values: Array) -> None:
    """Raises for rows of whole numbers, (n, d), that f32 would round."""
    if values.dtype.kind in "iu" and values.dtype.itemsize > 2:
        bad = values > WHOLE_MAX if values.dtype.kind == "u" else (values > WHOLE_MAX) | (values < -WHOLE_MAX)
        refuse(bad.any(axis=1), "vectors with whole numbers beyond 2^24, which float32 cannot hold")


def refuse(bad: Array | pa.Array, reason: str) -> None:
    """Raises when any row is marked in `bad`, (n,) of booleans."""
    rows = np.flatnonzero(np.asarray(bad)).tolist()
    if rows:
        raise BadRows(reason, rows)
