"""Reads vectors, ids and attributes from Parquet and .npy files as batches of rows, in bounded memory.

The way in of every row: `open_source` looks at the files and their schemas, `Source.batches` streams the rows in one
normal form and refuses what an index cannot hold. Rows are numbered from 0 over all files, in the order of the files.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vantage.errors import InputError
from vantage.format.layout import ID_BYTES_MAX

DEFAULT_VECTOR = "vector"
DEFAULT_ID = "id"
BAD_ROWS_NAMED = 5
SUFFIXES = (".parquet", ".npy")

# Read-ahead of a column. Without it, pyarrow holds whole column chunks: all of a row group, often all of a file.
READ_BUFFER_BYTES = 1 << 20
# Rows read at a time while looking for the first vector, whose length is the dimension of list columns.
PROBE_ROWS = 64

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


@dataclass(frozen=True)
class Source:
    """An opened source: what its rows look like, and the way to read them as often as needed.

    kind: type of the values in normal form, "f32" (from f32 or f64), "f16", "u8" or "i8"
    id_kind: "i64" (integers, or row numbers where there is no id column) or "bytes" (strings in UTF-8, or binary)
    attributes: names and Arrow types of the attribute columns, in order
    notes: sentences about what was decided without being asked
    """

    files: tuple[Path, ...]
    first_rows: tuple[int, ...]
    rows: int
    dimension: int
    kind: str
    id_kind: str
    attributes: pa.Schema
    notes: tuple[str, ...]
    vector_column: str
    id_column: str | None

    def where(self, row: int) -> str:
        """File and row in it (from 0) of a row number, for messages."""
        at = bisect_right(self.first_rows, row) - 1
        return f"{self.files[at]} row {row - self.first_rows[at]}"

    def bad_rows(self, reason: str, rows: Sequence[int]) -> InputError:
        """The error that names the first five of `rows`, which are wrong for `reason`."""
        named = ", ".join(self.where(row) for row in rows[:BAD_ROWS_NAMED])
        more = ", and more" if len(rows) > BAD_ROWS_NAMED else ""
        return InputError(f"{reason}: {named}{more}", hint="mend or leave out these rows (rows count from 0)")

    def batches(self, rows_max: int) -> Iterator[Batch]:
        """All rows in order, at most `rows_max` at a time; each call starts again from the first row.

        InputError for rows that an index cannot hold (null, wrong length, NaN or infinite, bad id). It names the first
        five rows with the same fault, so it is raised when these are found or at the end, and no batch with or after a
        faulty one is handed out.
        """
        reason, bad = "", []
        for first_row, raw in self._raw_batches(rows_max):
            try:
                batch = self._normal(first_row, raw)
            except _BadRows as fault:
                reason = reason or fault.reason
                bad += [first_row + row for row in fault.rows if fault.reason == reason]
                if len(bad) > BAD_ROWS_NAMED:
                    break
                continue
            if not reason:
                yield batch
        if reason:
            raise self.bad_rows(reason, bad)

    def _raw_batches(self, rows_max: int) -> Iterator[tuple[int, Array | pa.RecordBatch]]:
        """First row and rows as they are in the files: arrays from .npy, record batches from Parquet."""
        for path, first_row in zip(self.files, self.first_rows, strict=True):
            if path.suffix == ".npy":
                parts: Iterator[Array | pa.RecordBatch] = _npy_batches(path, rows_max)
            else:
                names = [self.vector_column, *([self.id_column] if self.id_column else []), *self.attributes.names]
                parts = _parquet_batches(path, names, rows_max)
            for part in parts:
                yield first_row, part
                first_row += len(part)

    def _normal(self, first_row: int, raw: Array | pa.RecordBatch) -> Batch:
        count = len(raw)
        if isinstance(raw, np.ndarray):
            vectors, table = raw, pa.table({})
        else:
            vectors = _vectors(raw.column(self.vector_column), self.dimension)
            table = self._attributes(raw)
        with np.errstate(over="ignore"):  # an f64 beyond f32 becomes infinite and is refused below
            vectors = np.ascontiguousarray(vectors, DTYPES[self.kind])
        if self.kind in ("f32", "f16"):
            _refuse(~np.isfinite(vectors).all(axis=1), "vectors with NaN, infinite or too large values")
        if isinstance(raw, np.ndarray) or self.id_column is None:
            return Batch(first_row, vectors, np.arange(first_row, first_row + count, dtype=np.int64), table)
        return Batch(first_row, vectors, _ids(raw.column(self.id_column)), table)

    def _attributes(self, raw: pa.RecordBatch) -> pa.Table:
        columns = []
        for field in self.attributes:
            column = _plain(raw.column(field.name))
            _refuse_bad_text(column, f"attribute {field.name!r} that is not UTF-8")
            columns.append(column)
        return pa.Table.from_arrays(columns, schema=self.attributes)


def open_source(
    paths: Sequence[Path],
    *,
    vector_column: str = DEFAULT_VECTOR,
    id_column: str = DEFAULT_ID,
    attributes: Sequence[str] | None = None,
) -> Source:
    """Opens Parquet files, .npy files and folders of them (their files, sorted by name) as one source.

    vector_column: fixed-size list or list of f16, f32, f64, u8 or i8, or fixed-length binary (its bytes are u8 values)
    id_column: integers, strings or binary. When the default is absent, row numbers are the ids and a note says so
    attributes: columns to keep; None for all others that JSON can carry (a note names the ones left out)
    .npy files hold a 2-D array of f16, f32, f64, u8 or i8; their ids are row numbers, they have no attributes.

    Reads schemas, row counts and at most the first vectors. InputError when a path, a schema or a name is wrong.
    """
    files = _files(paths)
    if len({path.suffix for path in files}) > 1:
        raise InputError("the source mixes .parquet and .npy files", hint="build from one kind of file")
    if files[0].suffix == ".npy":
        for option, name, default in (("vector", vector_column, DEFAULT_VECTOR), ("id", id_column, DEFAULT_ID)):
            if name != default:
                raise InputError(f"{option} column {name!r} is named, but {files[0]} has no columns")
        if attributes:
            raise InputError(f"attribute {attributes[0]!r} is named, but {files[0]} has no columns")
        return _open_npy(files)
    return _open_parquet(files, vector_column, id_column, attributes)


def _files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The files that `paths` name, folders replaced by their files with a known suffix, sorted by name."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and not p.name.startswith((".", "_")))
            if not inside:
                raise InputError(f"no .parquet or .npy file in folder {path}")
            files += inside
        elif not path.exists():
            raise InputError(f"no such file or folder: {path}")
        elif path.suffix not in SUFFIXES:
            raise InputError(f"unknown kind of file: {path}", hint="sources are .parquet and .npy files, or folders")
        else:
            files.append(path)
    if not files:
        raise InputError("no source is named", hint="name .parquet or .npy files, or folders of them")
    return tuple(files)


def _first_rows(files: Sequence[Path], counts: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Number of the first row of each file, and of all rows."""
    ends = np.cumsum(counts).tolist()
    if not ends[-1]:
        raise InputError(f"the source is empty: {files[0]} has no rows" + (", nor the others" if files[1:] else ""))
    return (0, *ends[:-1]), ends[-1]


# .npy


def _open_npy(files: tuple[Path, ...]) -> Source:
    headers = [_npy_header(path) for path in files]
    (_, dimension), dtype, _ = headers[0]
    for path, (shape, other, _) in zip(files, headers, strict=True):
        if (shape[1], other) != (dimension, dtype):
            raise InputError(f"{path} holds {other}[{shape[1]}] vectors, {files[0]} {dtype}[{dimension}]")
    first_rows, rows = _first_rows(files, [shape[0] for shape, _, _ in headers])
    if not dimension:
        raise InputError(f"the vectors of {files[0]} have no values")
    return Source(
        files=files,
        first_rows=first_rows,
        rows=rows,
        dimension=dimension,
        kind=NUMPY_KINDS[dtype.str[1:]],
        id_kind="i64",
        attributes=pa.schema([]),
        notes=("Ids are row numbers: .npy files have none.",),
        vector_column=DEFAULT_VECTOR,
        id_column=None,
    )


def _npy_header(path: Path) -> tuple[tuple[int, int], np.dtype[np.generic], int]:
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


def _npy_batches(path: Path, rows_max: int) -> Iterator[Array]:
    # Read, not mapped: mapped pages would count as this process's memory.
    (rows, dimension), dtype, offset = _npy_header(path)
    with path.open("rb") as file:
        file.seek(offset)
        for first in range(0, rows, rows_max):
            count = min(rows_max, rows - first)
            values = np.fromfile(file, dtype, count * dimension)
            if len(values) < count * dimension:
                raise InputError(f"{path} was cut short while it was read")
            yield values.reshape(count, dimension)


# Parquet


def _open_parquet(
    files: tuple[Path, ...], vector_column: str, id_column: str, attributes: Sequence[str] | None
) -> Source:
    counts, schemas = [], []
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                counts.append(file.metadata.num_rows)
                schemas.append(file.schema_arrow)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} cannot be read as Parquet: {error}") from None
    first_rows, rows = _first_rows(files, counts)
    schema, notes = schemas[0], []

    vector_type = _field(schema, vector_column, "vector", files[0]).type
    kind = _vector_kind(vector_type)
    if kind is None:
        raise InputError(
            f"column {vector_column!r} of {files[0]} is {vector_type}",
            hint="a vector is a list of f16, f32, f64, u8 or i8, or fixed-length binary",
        )

    id_kind, id_name = "i64", None
    if id_column == DEFAULT_ID and id_column not in schema.names:
        notes.append(f"Ids are row numbers: there is no column {id_column!r}.")
    else:
        id_type = _plain_type(_field(schema, id_column, "id", files[0]).type)
        if not (pa.types.is_integer(id_type) or _is_bytes(id_type)):
            raise InputError(
                f"id column {id_column!r} of {files[0]} is {id_type}", hint="ids are integers, strings or binary"
            )
        id_kind, id_name = ("bytes" if _is_bytes(id_type) else "i64"), id_column

    kept, skipped = _attribute_fields(schema, (vector_column, id_name), attributes, files[0])
    if skipped:
        notes.append("Columns left out, JSON cannot carry them: " + ", ".join(skipped) + ".")

    used = [vector_column, *([id_name] if id_name else []), *(field.name for field in kept)]
    for path, other in zip(files[1:], schemas[1:], strict=True):
        for name in used:
            found = _field(other, name, "needed", path).type
            if found != schema.field(name).type:
                raise InputError(
                    f"column {name!r} is {found} in {path}, but {schema.field(name).type} in {files[0]}",
                    hint="all files of a source need the same schema",
                )

    return Source(
        files=files,
        first_rows=first_rows,
        rows=rows,
        dimension=_dimension(files, vector_column, vector_type),
        kind=kind,
        id_kind=id_kind,
        attributes=pa.schema([pa.field(field.name, _plain_type(field.type)) for field in kept]),
        notes=tuple(notes),
        vector_column=vector_column,
        id_column=id_name,
    )


def _field(schema: pa.Schema, name: str, role: str, path: Path) -> pa.Field:
    """The one column `name`; InputError that lists the columns when there is none, or two."""
    found = schema.get_all_field_indices(name)
    if len(found) != 1:
        problem = "is missing in" if not found else f"is there {len(found)} times in"
        raise InputError(f"{role} column {name!r} {problem} {path}", hint=f"its columns are {', '.join(schema.names)}")
    return schema.field(found[0])


def _attribute_fields(
    schema: pa.Schema, taken: tuple[str | None, ...], names: Sequence[str] | None, path: Path
) -> tuple[list[pa.Field], list[str]]:
    """Fields of the attributes, and what was left out without being named."""
    if names is None:
        others = [_field(schema, name, "attribute", path) for name in schema.names if name not in taken]
        kept = [field for field in others if _json_can_carry(field.type)]
        return kept, [f"{field.name!r} ({field.type})" for field in others if field not in kept]
    kept = []
    for name in names:
        field = _field(schema, name, "attribute", path)
        if name in taken or field in kept:
            raise InputError(f"attribute {name!r} is named twice, or is the vector or id column already")
        if not _json_can_carry(field.type):
            raise InputError(
                f"attribute {name!r} of {path} is {field.type}, which JSON cannot carry",
                hint="attributes are strings, numbers, booleans, dates, timestamps, and lists and structs of these",
            )
        kept.append(field)
    return kept, []


def _json_can_carry(kind: pa.DataType) -> bool:
    kind = _plain_type(kind)
    if _is_list(kind):
        return _json_can_carry(kind.value_type)
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return len(names) == len(set(names)) and all(_json_can_carry(field.type) for field in kind)
    return bool(
        _is_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_date(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        _is_text(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves, without a dictionary around them."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _vector_kind(kind: pa.DataType) -> str | None:
    if pa.types.is_fixed_size_binary(kind):
        return "u8"
    return ARROW_KINDS.get(kind.value_type) if _is_list(kind) else None


def _dimension(files: Sequence[Path], column: str, kind: pa.DataType) -> int:
    """From the type, or else from the first vector that is not null."""
    if pa.types.is_fixed_size_binary(kind):
        dimension = int(kind.byte_width)
    elif pa.types.is_fixed_size_list(kind):
        dimension = int(kind.list_size)
    else:
        parts = (part for path in files for part in _parquet_batches(path, [column], PROBE_ROWS))
        lengths = (length for part in parts for length in pc.list_value_length(part.column(column)).to_pylist())
        found = next((length for length in lengths if length is not None), None)
        if found is None:
            raise InputError(f"column {column!r} of {files[0]} holds no vector, only nulls")
        dimension = found
    if not dimension:
        raise InputError(f"the vectors in column {column!r} of {files[0]} have no values")
    return dimension


def _parquet_batches(path: Path, columns: list[str], rows_max: int) -> Iterator[pa.RecordBatch]:
    """Streams pages: neither a row group nor a file is ever held whole."""
    try:
        with pq.ParquetFile(path, pre_buffer=False, memory_map=False, buffer_size=READ_BUFFER_BYTES) as file:
            yield from file.iter_batches(batch_size=rows_max, columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="the file may be damaged: copy it again") from None


# Rows


class _BadRows(Exception):
    """Rows of one batch (numbered from 0 in it) that an index cannot hold, all for the same reason."""

    def __init__(self, reason: str, rows: list[int]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rows = rows


def _refuse(bad: Array | pa.Array, reason: str) -> None:
    """Raises when any row is marked in `bad`, (n,) of booleans."""
    rows = np.flatnonzero(np.asarray(bad)).tolist()
    if rows:
        raise _BadRows(reason, rows)


def _refuse_bad_text(column: pa.Array, reason: str) -> None:
    """Raises when text in the column is not UTF-8, which Parquet readers do not check."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        bad = np.zeros(len(column), bool)
        for row in range(len(column)):
            try:
                column[row].as_py()
            except UnicodeDecodeError:
                bad[row] = True
        _refuse(bad, reason)
        raise


def _vectors(column: pa.Array, dimension: int) -> Array:
    """(n, d) of the column's own type."""
    count = len(column)
    if column.null_count:
        _refuse(column.is_null(), "vectors that are null")
    if pa.types.is_fixed_size_binary(column.type):
        data = np.frombuffer(column.buffers()[1], np.uint8)
        return data[column.offset * dimension :][: count * dimension].reshape(count, dimension)
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    _refuse(lengths != dimension, f"vectors that have not {dimension} values, the dimension of the first one")
    values = column.flatten()
    if values.null_count:
        _refuse(np.asarray(values.is_null()).reshape(count, dimension).any(axis=1), "vectors with values that are null")
    return np.asarray(values).reshape(count, dimension)


def _ids(column: pa.Array) -> npt.NDArray[np.int64] | list[bytes]:
    column = _plain(column)
    if column.null_count:
        _refuse(column.is_null(), "ids that are null")
    if pa.types.is_integer(column.type):
        values = column.to_numpy(zero_copy_only=False)
        if values.dtype == np.uint64:
            _refuse(values > np.iinfo(np.int64).max, "ids over 2^63 - 1")
        return np.asarray(values, np.int64)
    if _is_text(column.type):
        _refuse_bad_text(column, "ids that are not UTF-8")
    column = column.cast(pa.large_binary())
    lengths = pc.binary_length(column).to_numpy(zero_copy_only=False)
    _refuse(lengths == 0, "ids that are empty")
    _refuse(lengths > ID_BYTES_MAX, f"ids over {ID_BYTES_MAX} bytes")
    ids: list[bytes] = column.to_pylist()
    return ids
