"""A source of rows: vectors, ids and attributes streamed as batches in one normal form, in bounded memory.

The way in of every row: `open_source` (`open.py`) looks at files and schemas, `Source.batches` streams the rows and
refuses what an index cannot hold. Rows are numbered from 0 over all files, in the order of the files.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vantage.errors import InputError

from .formats.address import Part, shown, suffix_of
from .formats.batch import BAD_ROWS_NAMED, DTYPES, Array, BadRows, Batch, Skipped, refuse, whole_numbers_fit
from .formats.columns import ids_of, refuse_bad_json, refuse_bad_text, vectors_of
from .formats.registry import TABLES, Raw, matrix_format, table_batches
from .formats.sizes import row_bytes
from .formats.types import is_json, plain

NORM_MIN, NORM_MAX = 1e-30, 1e18  # outside, float32 cannot hold what is computed with a row
ROW_BYTES_MAX = 16 << 20  # of one row's columns, decoded

Ints = npt.NDArray[np.int64]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Source:
    """An opened source: what its rows look like, and the way to read them as often as needed.

    kind: type of the values in normal form, "f32" (from f32 or f64), "f16", "u8" or "i8"
    id_kind: "i64" (integers, or row numbers where there is no id column) or "bytes" (strings in UTF-8, or binary)
    attributes: names and Arrow types of the attribute columns, in order
    notes: sentences about what was decided without a word from the user
    metric: what the file itself names, None for most formats; it may be none of ours
    """

    parts: tuple[Part, ...]
    first_rows: tuple[int, ...]
    rows: int
    dimension: int
    kind: str
    id_kind: str
    attributes: pa.Schema
    notes: tuple[str, ...]
    vector_column: str
    id_column: str | None
    metric: str | None = None

    def where(self, row: int) -> str:
        """File and row in it (from 0) of a row number, for messages."""
        at = bisect_right(self.first_rows, row) - 1
        return f"{shown(self.parts[at].location)} row {row - self.first_rows[at]}"

    def bad_rows(self, reason: str, rows: Sequence[int]) -> InputError:
        """The error that names the first five of `rows`, which are wrong for `reason`."""
        hint = "mend these rows, or leave them out with --skip-bad-rows (rows count from 0)"
        return InputError(f"{reason}: {self._places(rows)}", hint=hint)

    def left_out(self, skipped: Skipped) -> list[str]:
        """A sentence for each reason that rows were left out for."""
        return [
            f"{count:,} rows are left out, {reason}: {self._places(skipped.first[reason], count)}"
            for reason, count in skipped.counts.items()
        ]

    def _places(self, rows: Sequence[int], count: int | None = None) -> str:
        more = ", and more" if (len(rows) if count is None else count) > BAD_ROWS_NAMED else ""
        return ", ".join(map(self.where, rows[:BAD_ROWS_NAMED])) + more

    def batches(self, rows_max: int, metric: str | None = None, skipped: Skipped | None = None) -> Iterator[Batch]:
        """All rows in order, at most `rows_max` at a time; each call starts again from the first row.

        InputError for rows that an index cannot hold (null, wrong length, NaN or infinite, bad id; with a metric also
        those that have no direction under cosine, or whose scores f32 cannot hold). It names the first five rows with
        the same fault, so it is raised when these are found or at the end, and no batch with or after a faulty one is
        handed out. With `skipped` such rows are left out and counted there.
        """
        reason, bad = "", []
        for first_row, raw in self._raw_batches(rows_max):
            rows = np.arange(first_row, first_row + len(raw), dtype=np.int64)
            try:
                for batch in _good(partial(self._normal, metric), rows, raw, skipped):
                    if not reason:
                        yield batch
            except BadRows as fault:
                reason = reason or fault.reason
                bad += [first_row + row for row in fault.rows if fault.reason == reason]
                if len(bad) > BAD_ROWS_NAMED:
                    break
        if reason:
            raise self.bad_rows(reason, bad)

    def raw_vectors(self, rows_max: int, skipped: Skipped) -> Iterator[tuple[Ints, Array]]:
        """Row numbers (n) and vectors (n, d) in normal form, NaN and infinite ones too; what is none is skipped.

        Raises InputError where a file cannot be read.
        """
        for first_row, raw in self._raw_batches(rows_max):
            rows = np.arange(first_row, first_row + len(raw), dtype=np.int64)
            yield from _good(lambda rows, raw: (rows, self._vectors(raw)), rows, raw, skipped)

    def _raw_batches(self, rows_max: int) -> Iterator[tuple[int, Raw]]:
        """First row and rows as they are in the files: arrays from matrices, record batches from tables."""
        names = [self.vector_column, *([self.id_column] if self.id_column else []), *self.attributes.names]
        ends = (*self.first_rows[1:], self.rows)
        for part, start, end in zip(self.parts, self.first_rows, ends, strict=True):
            suffix, row = suffix_of(part.location), start
            pieces: Iterator[Raw]
            if suffix in TABLES:
                pieces = table_batches(part, names, rows_max)
            else:
                assert isinstance(part.location, Path)
                pieces = matrix_format(suffix, self.vector_column).batches(part.location, rows_max)
            for raw in pieces:
                yield row, raw
                row += len(raw)
            if row != end:
                raise InputError(
                    f"{shown(part.location)} says that it has {end - start} rows, and holds {row - start}",
                    hint="it is damaged, or was changed: copy it again",
                )

    def _vectors(self, raw: Raw) -> Array:
        values = raw if isinstance(raw, np.ndarray) else vectors_of(raw.column(self.vector_column), self.dimension)
        if self.kind == "f32":
            whole_numbers_fit(values)
        with np.errstate(over="ignore"):  # an f64 beyond f32 becomes infinite
            return np.ascontiguousarray(values, DTYPES[self.kind])

    def _normal(self, metric: str | None, rows: Ints, raw: Raw) -> Batch:
        if not isinstance(raw, np.ndarray) and len(raw) == 1:  # a piece of more rows is smaller
            refuse(row_bytes(raw) > ROW_BYTES_MAX, f"rows over {ROW_BYTES_MAX >> 20} MiB")
        vectors = self._vectors(raw)
        table = pa.table({}) if isinstance(raw, np.ndarray) else self._attributes(raw)
        if self.kind in ("f32", "f16"):
            refuse(~np.isfinite(vectors).all(axis=1), "vectors with NaN, infinite or too large values")
        if metric:
            norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
            if metric == "cosine":
                refuse(norms < NORM_MIN, "zero vectors, which have no direction under the metric cosine")
            refuse(norms > NORM_MAX, f"vectors with a norm over {NORM_MAX:g}, whose scores float32 cannot hold")
        if isinstance(raw, np.ndarray) or self.id_column is None:
            return Batch(rows, vectors, rows, table)
        return Batch(rows, vectors, ids_of(raw.column(self.id_column)), table)

    def _attributes(self, raw: pa.RecordBatch) -> pa.Table:
        columns = []
        for attribute in self.attributes:
            column = _fit(raw.column(attribute.name), attribute)
            refuse_bad_text(column, f"attribute {attribute.name!r} that is not UTF-8")
            if is_json(attribute.type):
                refuse_bad_json(column, attribute.name)
            columns.append(column)
        return pa.Table.from_arrays(columns, schema=self.attributes)


def _fit(column: pa.Array, attribute: pa.Field) -> pa.Array:
    """A valid column in the type of the attribute. Raises BadRows for values that it cannot hold."""
    try:
        return plain(column, attribute.type)
    except pa.ArrowInvalid:
        bad = np.zeros(len(column), bool)
        for row in range(len(column)):
            try:
                plain(column.slice(row, 1), attribute.type)
            except pa.ArrowInvalid:
                bad[row] = True
        refuse(bad, f"attribute {attribute.name!r} that does not fit {attribute.type}, the type for all files")
        raise


def _good(
    convert: Callable[[Ints, Raw], Value],
    rows: Ints,
    raw: Raw,
    skipped: Skipped | None,
) -> Iterator[Value]:
    """What `convert` makes of rows with these numbers (n): of all, or of each run of rows between the bad ones, which
    go to `skipped`. Raises BadRows without `skipped`.
    """
    try:
        good = convert(rows, raw)
    except BadRows as fault:
        if skipped is None:
            raise
        skipped.add(fault.reason, rows[fault.rows])
        edges = [-1, *fault.rows, len(rows)]
        for low, high in zip(edges, edges[1:], strict=False):
            if high - low > 1:
                yield from _good(convert, rows[low + 1 : high], raw[low + 1 : high], skipped)
    else:
        yield good
