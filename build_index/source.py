"""Reads vectors, ids and attributes from files and object stores as batches of rows, in bounded memory.

The way in of every row: `open_source` looks at the files and their schemas, `Source.batches` streams the rows in one
normal form and refuses what an index cannot hold. Rows are numbered from 0 over all files, in the order of the files.
A format is a module of `sources` and a line of MATRICES or TABLES.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vantage.errors import InputError

from .sources import hdf5, ipc, npy, parquet, vecs
from .sources.columns import (
    attribute_fields,
    field_of,
    ids_of,
    is_bytes,
    is_json,
    plain,
    plain_type,
    refuse_bad_json,
    refuse_bad_text,
    vector_kind,
    vectors_of,
)
from .sources.places import Place, inside, place
from .sources.rows import BAD_ROWS_NAMED, DTYPES, NUMPY_KINDS, Array, BadRows, Batch, refuse

__all__ = [
    "BAD_ROWS_NAMED", "DTYPES", "HDF5", "NUMPY_KINDS", "Array", "Batch", "Source", "open_source", "source_metric",
]  # fmt: skip

DEFAULT_VECTOR = "vector"
DEFAULT_ID = "id"

# Rows read at a time while looking for the first vector, whose length is the dimension of list columns.
PROBE_ROWS = 64


@dataclass(frozen=True)
class Matrix:
    """A format of vectors alone. header(path): (rows, dimension), dtype, first byte; batches(path, rows_max)."""

    header: Callable[[Path], tuple[tuple[int, int], np.dtype[np.generic], int]]
    batches: Callable[[Path, int], Iterator[Array]]


@dataclass(frozen=True)
class Table:
    """A format of columns. header(path): rows and schema; batches(path, columns, rows_max)."""

    header: Callable[[Place], tuple[int, pa.Schema]]
    batches: Callable[[Place, list[str], int], Iterator[pa.RecordBatch]]


_IPC, _VECS, _HDF5 = (
    Table(ipc.header, ipc.batches),
    Matrix(vecs.header, vecs.batches),
    Matrix(hdf5.header, hdf5.batches),
)
TABLES = {".parquet": Table(parquet.header, parquet.batches), ".arrow": _IPC, ".feather": _IPC, ".ipc": _IPC}
MATRICES = {
    ".npy": Matrix(npy.header, npy.batches), ".fvecs": _VECS, ".bvecs": _VECS, ".hdf5": _HDF5, ".h5": _HDF5,
}  # fmt: skip
HDF5 = (".hdf5", ".h5")
SUFFIXES = (*TABLES, *MATRICES)
KNOWN = f"sources are {', '.join(SUFFIXES)} files, or folders of one kind"

# data/train-00000-of-00012.parquet: how Hugging Face names the parts of a split.
SPLIT = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?\.parquet")


@dataclass(frozen=True)
class Source:
    """An opened source: what its rows look like, and the way to read them as often as needed.

    kind: type of the values in normal form, "f32" (from f32 or f64), "f16", "u8" or "i8"
    id_kind: "i64" (integers, or row numbers where there is no id column) or "bytes" (strings in UTF-8, or binary)
    attributes: names and Arrow types of the attribute columns, in order
    notes: sentences about what was decided without being asked
    metric: the one that the file itself names, None for most formats
    """

    files: tuple[Place, ...]
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
            except BadRows as fault:
                reason = reason or fault.reason
                bad += [first_row + row for row in fault.rows if fault.reason == reason]
                if len(bad) > BAD_ROWS_NAMED:
                    break
                continue
            if not reason:
                yield batch
        if reason:
            raise self.bad_rows(reason, bad)

    def raw_vectors(self, rows_max: int) -> Iterator[tuple[int, Array]]:
        """First row and (n, d) in normal form, NaN and infinite values too. Raises InputError as `batches` does."""
        for first_row, raw in self._raw_batches(rows_max):
            try:
                yield first_row, self._vectors(raw)
            except BadRows as fault:
                raise self.bad_rows(fault.reason, [first_row + row for row in fault.rows]) from None

    def _raw_batches(self, rows_max: int) -> Iterator[tuple[int, Array | pa.RecordBatch]]:
        """First row and rows as they are in the files: arrays from matrices, record batches from tables."""
        for path, first_row in zip(self.files, self.first_rows, strict=True):
            names = [self.vector_column, *([self.id_column] if self.id_column else []), *self.attributes.names]
            parts: Iterator[Array | pa.RecordBatch]
            if path.suffix in TABLES:
                parts = TABLES[path.suffix].batches(path, names, rows_max)
            else:
                assert isinstance(path, Path)
                parts = MATRICES[path.suffix].batches(path, rows_max)
            for part in parts:
                yield first_row, part
                first_row += len(part)

    def _vectors(self, raw: Array | pa.RecordBatch) -> Array:
        values = raw if isinstance(raw, np.ndarray) else vectors_of(raw.column(self.vector_column), self.dimension)
        with np.errstate(over="ignore"):  # an f64 beyond f32 becomes infinite
            return np.ascontiguousarray(values, DTYPES[self.kind])

    def _normal(self, first_row: int, raw: Array | pa.RecordBatch) -> Batch:
        vectors = self._vectors(raw)
        table = pa.table({}) if isinstance(raw, np.ndarray) else self._attributes(raw)
        if self.kind in ("f32", "f16"):
            refuse(~np.isfinite(vectors).all(axis=1), "vectors with NaN, infinite or too large values")
        if isinstance(raw, np.ndarray) or self.id_column is None:
            return Batch(first_row, vectors, np.arange(first_row, first_row + len(raw), dtype=np.int64), table)
        return Batch(first_row, vectors, ids_of(raw.column(self.id_column)), table)

    def _attributes(self, raw: pa.RecordBatch) -> pa.Table:
        columns = []
        for field in self.attributes:
            column = plain(raw.column(field.name))
            refuse_bad_text(column, f"attribute {field.name!r} that is not UTF-8")
            if is_json(field.type):
                refuse_bad_json(column, field.name)
            columns.append(column)
        return pa.Table.from_arrays(columns, schema=self.attributes)


def open_source(
    paths: Sequence[str | Path],
    *,
    vector_column: str = DEFAULT_VECTOR,
    id_column: str = DEFAULT_ID,
    attributes: Sequence[str] | None = None,
) -> Source:
    """Opens files of one kind, and folders of them (their files, sorted by name), as one source.

    Parquet and Arrow may lie at s3:// and r2:// URLs. A folder of Hugging Face splits gives the split "train".

    vector_column: fixed-size list or list of f16, f32, f64, u8 or i8, or fixed-length binary (its bytes are u8 values)
    id_column: integers, strings or binary. When the default is absent, row numbers are the ids and a note says so
    attributes: columns to keep; None for all others that JSON can carry (a note names the ones left out)
    Matrices (.npy, .fvecs, .bvecs, .hdf5) hold f16, f32, f64, u8 or i8; their ids are row numbers, and they have no
    attributes.

    Reads schemas, row counts and at most the first vectors. InputError when a path, a schema or a name is wrong.
    """
    files, notes = _files(paths)
    kinds = sorted({path.suffix for path in files}, key=SUFFIXES.index)
    if len(kinds) > 1:
        raise InputError(f"the source mixes {' and '.join(kinds)} files", hint="build from one kind of file")
    if kinds[0] in TABLES:
        opened = _open_table(files, vector_column, id_column, attributes)
    else:
        for option, name, default in (("vector", vector_column, DEFAULT_VECTOR), ("id", id_column, DEFAULT_ID)):
            if name != default:
                raise InputError(f"{option} column {name!r} is named, but {files[0]} has no columns")
        if attributes:
            raise InputError(f"attribute {attributes[0]!r} is named, but {files[0]} has no columns")
        opened = _open_matrix([path for path in files if isinstance(path, Path)], kinds[0])
    return replace(opened, notes=(*notes, *opened.notes))


def source_metric(source: Source, asked: str | None) -> str:
    """The metric to build with: the one asked for, the file's own, or cosine. InputError where the two differ."""
    if asked and source.metric and asked != source.metric:
        raise InputError(
            f"--metric is {asked}, but {source.files[0]} says {source.metric}",
            hint=f"leave --metric out, or save the vectors as .npy to build with {asked}",
        )
    return asked or source.metric or "cosine"


def _files(paths: Sequence[str | Path]) -> tuple[tuple[Place, ...], list[str]]:
    """The files that `paths` name, folders replaced by their files with a known suffix, sorted by name; and notes."""
    files: list[Place] = []
    notes: list[str] = []
    for where in map(place, paths):
        found = inside(where)
        if found is not None:
            files += _folder(where, found, notes)
        elif where.suffix not in SUFFIXES:
            raise InputError(f"unknown kind of file: {where}", hint=KNOWN)
        elif not isinstance(where, Path) and where.suffix not in TABLES:
            raise InputError(f"{where} cannot be read from a store", hint="copy it here; Parquet and Arrow can be read")
        else:
            files.append(where)
    if not files:
        raise InputError("no source is named", hint=KNOWN)
    return tuple(files), notes


def _folder(folder: Place, found: list[Place], notes: list[str]) -> list[Place]:
    """The files of a folder that are data; of Hugging Face splits those of "train", and a note names the others."""
    suffixes = TABLES if not isinstance(folder, Path) else SUFFIXES
    files = [p for p in found if p.suffix in suffixes and not p.name.startswith((".", "_"))]
    below = [p for p in found if p.name == "data"]
    if not files and below:
        return _folder(below[0], inside(below[0]) or [], notes)
    if not files:
        raise InputError(f"no file of a known kind in folder {folder}", hint=KNOWN)
    named = [match["split"] for p in files if (match := SPLIT.fullmatch(p.name))]
    splits = sorted(set(named))
    if len(named) < len(files) or len(splits) < 2:
        return files
    if "train" not in splits:
        raise InputError(
            f"{folder} holds the splits {', '.join(splits)}, and none is train", hint="name the files of one split"
        )
    notes.append(f"The split train of {folder} is read, not {', '.join(s for s in splits if s != 'train')}.")
    return [p for p in files if p.name.startswith("train-")]


def _first_rows(files: Sequence[Place], counts: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Number of the first row of each file, and of all rows."""
    ends = np.cumsum(counts).tolist()
    if not ends[-1]:
        raise InputError(f"the source is empty: {files[0]} has no rows" + (", nor the others" if files[1:] else ""))
    return (0, *ends[:-1]), ends[-1]


def _open_matrix(files: Sequence[Path], suffix: str) -> Source:
    headers = [MATRICES[suffix].header(path) for path in files]
    (_, dimension), dtype, _ = headers[0]
    for path, (shape, other, _) in zip(files, headers, strict=True):
        if (shape[1], other) != (dimension, dtype):
            raise InputError(f"{path} holds {other}[{shape[1]}] vectors, {files[0]} {dtype}[{dimension}]")
    first_rows, rows = _first_rows(files, [shape[0] for shape, _, _ in headers])
    if not dimension:
        raise InputError(f"the vectors of {files[0]} have no values")
    metric = hdf5.metric(files[0]) if suffix in HDF5 else None
    told = [f"{files[0]} says that its metric is {metric}."] if metric else []
    return Source(
        files=tuple(files),
        first_rows=first_rows,
        rows=rows,
        dimension=dimension,
        kind=NUMPY_KINDS[dtype.str[1:]],
        id_kind="i64",
        attributes=pa.schema([]),
        notes=(f"Ids are row numbers: {suffix} files have none.", *told),
        vector_column=DEFAULT_VECTOR,
        id_column=None,
        metric=metric,
    )


def _open_table(
    files: tuple[Place, ...], vector_column: str, id_column: str, attributes: Sequence[str] | None
) -> Source:
    counts, schemas = [], []
    for path in files:
        count, columns = TABLES[path.suffix].header(path)
        counts.append(count)
        schemas.append(columns)
    first_rows, rows = _first_rows(files, counts)
    schema, notes = schemas[0], []

    vector_type = field_of(schema, vector_column, "vector", files[0]).type
    kind = vector_kind(vector_type)
    if kind is None:
        raise InputError(
            f"column {vector_column!r} of {files[0]} is {vector_type}",
            hint="a vector is a list of f16, f32, f64, u8 or i8, or fixed-length binary",
        )

    id_kind, id_name = "i64", None
    if id_column == DEFAULT_ID and id_column not in schema.names:
        notes.append(f"Ids are row numbers: there is no column {id_column!r}.")
    else:
        id_type = plain_type(field_of(schema, id_column, "id", files[0]).type)
        if not (pa.types.is_integer(id_type) or is_bytes(id_type)):
            raise InputError(
                f"id column {id_column!r} of {files[0]} is {id_type}", hint="ids are integers, strings or binary"
            )
        id_kind, id_name = ("bytes" if is_bytes(id_type) else "i64"), id_column

    kept, skipped = attribute_fields(schema, (vector_column, id_name), attributes, files[0])
    if skipped:
        notes.append("Columns left out, JSON cannot carry them: " + ", ".join(skipped) + ".")

    used = [vector_column, *([id_name] if id_name else []), *(field.name for field in kept)]
    for path, other in zip(files[1:], schemas[1:], strict=True):
        for name in used:
            found = field_of(other, name, "needed", path).type
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
        attributes=pa.schema([pa.field(field.name, plain_type(field.type)) for field in kept]),
        notes=tuple(notes),
        vector_column=vector_column,
        id_column=id_name,
    )


def _dimension(files: Sequence[Place], column: str, kind: pa.DataType) -> int:
    """From the type, or else from the first vector that is not null."""
    if pa.types.is_fixed_size_binary(kind):
        dimension = int(kind.byte_width)
    elif pa.types.is_fixed_size_list(kind):
        dimension = int(kind.list_size)
    else:
        parts = (part for path in files for part in TABLES[path.suffix].batches(path, [column], PROBE_ROWS))
        lengths = (length for part in parts for length in pc.list_value_length(part.column(column)).to_pylist())
        found = next((length for length in lengths if length is not None), None)
        if found is None:
            raise InputError(f"column {column!r} of {files[0]} holds no vector, only nulls")
        dimension = found
    if not dimension:
        raise InputError(f"the vectors in column {column!r} of {files[0]} have no values")
    return dimension
