"""Reads vectors, ids and attributes from files and object stores as batches of rows, in bounded memory.

The way in of every row: `open_source` looks at the files and their schemas, `Source.batches` streams the rows in one
normal form and refuses what an index cannot hold. Rows are numbered from 0 over all files, in the order of the files.
A format is a module of `sources` and a line of MATRICES or TABLES.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vantage.errors import InputError
from vantage.format import METRICS

from .formats import hdf5, ipc, npy, parquet, vecs
from .formats.address import Location, Part, inside, location, shown, suffix_of
from .formats.batch import (
    BAD_ROWS_NAMED,
    DTYPES,
    NUMPY_KINDS,
    Array,
    BadRows,
    Batch,
    Skipped,
    refuse,
    whole_numbers_fit,
)
from .formats.columns import (
    attribute_fields,
    field_of,
    id_form,
    ids_of,
    refuse_bad_json,
    refuse_bad_text,
    structure,
    vector_kind,
    vector_length,
    vector_lists,
    vectors_of,
)
from .formats.distance import metric_of
from .formats.folders import check_beside, check_numbered, partitions_above, parts_of, same_file_twice
from .formats.sizes import pieces, row_bytes
from .formats.types import common, is_json, plain, plain_type

__all__ = [
    "BAD_ROWS_NAMED", "DTYPES", "HDF5", "NORM_MAX", "NORM_MIN", "NUMPY_KINDS", "Array", "Batch", "Skipped", "Source",
    "open_source", "source_metric",
]  # fmt: skip

DEFAULT_VECTOR = "vector"
DEFAULT_ID = "id"

# Rows read at a time while looking for the first vector, whose length is the dimension of list columns.
PROBE_ROWS = 64

NORM_MIN, NORM_MAX = 1e-30, 1e18  # outside, float32 cannot hold what is computed with a row
ROW_BYTES_MAX = 16 << 20  # of one row's columns, decoded


Raw: TypeAlias = "Array | pa.RecordBatch"
Made = TypeVar("Made")


@dataclass(frozen=True)
class Matrix:
    """A format of vectors alone. header(path): (rows, dimension), dtype, first byte; batches(path, rows_max)."""

    header: Callable[[Path], tuple[tuple[int, int], np.dtype[np.generic], int]]
    batches: Callable[[Path, int], Iterator[Array]]


@dataclass(frozen=True)
class Table:
    """A format of columns. header(path): rows and schema; batches(path, columns, rows_max)."""

    header: Callable[[Location], tuple[int, pa.Schema]]
    batches: Callable[[Location, list[str], int], Iterator[pa.RecordBatch]]


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


@dataclass(frozen=True)
class Source:
    """An opened source: what its rows look like, and the way to read them as often as needed.

    kind: type of the values in normal form, "f32" (from f32 or f64), "f16", "u8" or "i8"
    id_kind: "i64" (integers, or row numbers where there is no id column) or "bytes" (strings in UTF-8, or binary)
    attributes: names and Arrow types of the attribute columns, in order
    notes: sentences about what was decided without being asked
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

    def raw_vectors(self, rows_max: int, skipped: Skipped) -> Iterator[tuple[npt.NDArray[np.int64], Array]]:
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
            found: Iterator[Raw]
            if suffix in TABLES:
                found = _table_batches(part, names, rows_max)
            else:
                assert isinstance(part.location, Path)
                found = _matrix(suffix, self.vector_column).batches(part.location, rows_max)
            for raw in found:
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

    def _normal(self, metric: str | None, rows: npt.NDArray[np.int64], raw: Raw) -> Batch:
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
            column = _fitted(raw.column(attribute.name), attribute)
            refuse_bad_text(column, f"attribute {attribute.name!r} that is not UTF-8")
            if is_json(attribute.type):
                refuse_bad_json(column, attribute.name)
            columns.append(column)
        return pa.Table.from_arrays(columns, schema=self.attributes)


def _fitted(column: pa.Array, attribute: pa.Field) -> pa.Array:
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
    made: Callable[[npt.NDArray[np.int64], Raw], Made], rows: npt.NDArray[np.int64], raw: Raw, skipped: Skipped | None
) -> Iterator[Made]:
    """What `made` makes of rows with these numbers (n): of all, or of each run of rows between the bad ones, which go
    to `skipped`. Raises BadRows without `skipped`.
    """
    try:
        good = made(rows, raw)
    except BadRows as fault:
        if skipped is None:
            raise
        skipped.add(fault.reason, rows[fault.rows])
        edges = [-1, *fault.rows, len(rows)]
        for low, high in zip(edges, edges[1:], strict=False):
            if high - low > 1:
                yield from _good(made, rows[low + 1 : high], raw[low + 1 : high], skipped)
    else:
        yield good


def _table_batches(part: Part, names: Sequence[str], rows_max: int) -> Iterator[pa.RecordBatch]:
    """Record batches of the named columns, whole in themselves and of bounded size once decoded.

    Raises InputError where a file, or what a column says of itself, is damaged.
    """
    reader = TABLES[suffix_of(part.location)]
    there = set(reader.header(part.location)[1].names)
    own = [name for name in names if name in there]
    for raw in reader.batches(part.location, own, rows_max):
        columns = {name: raw.column(name) for name in own}
        try:
            for column in columns.values():
                structure(column)
        except pa.ArrowException as error:
            raise InputError(
                f"{shown(part.location)} is damaged: {error}", hint="copy it again, or write it anew"
            ) from None
        for name in names:
            if name not in columns and name in part.constants:
                columns[name] = pa.repeat(part.constants[name], len(raw))
            elif name not in columns and part.absent is not None:
                columns[name] = pa.nulls(len(raw), part.absent.field(name).type)
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        yield from pieces(batch)


def open_source(
    paths: Sequence[str | Path],
    *,
    vector_column: str = DEFAULT_VECTOR,
    id_column: str = DEFAULT_ID,
    attributes: Sequence[str] | None = None,
    skip_bad_rows: bool = False,
) -> Source:
    """Opens files of one kind, and folders of them (their files, sorted by name), as one source.

    Parquet and Arrow may lie at s3:// and r2:// URLs. Of a folder of Hugging Face splits "train" is read, of a Delta
    table the newest version; folders named key=value give an attribute.

    vector_column: lists of numbers, or fixed-length binary (its bytes are u8 values); of HDF5 the name of the dataset
    id_column: integers, strings, UUIDs or binary. Row numbers are the ids where the default is absent; a note says so
    attributes: columns to keep; None for all others that JSON can carry (a note names the ones left out)
    skip_bad_rows: the first vector may be one of them: the usual length of the first ones is the dimension
    Matrices (.npy, .fvecs, .bvecs, .hdf5) hold f16, f32, f64 or whole numbers; their ids are row numbers, and they have
    no attributes.

    Reads schemas, row counts and at most the first vectors. InputError when a path, a schema or a name is wrong.
    """
    parts, notes = _parts(paths)
    same_file_twice(parts)
    kinds = sorted({suffix_of(part.location) for part in parts}, key=SUFFIXES.index)
    if len(kinds) > 1:
        raise InputError(f"the source mixes {' and '.join(kinds)} files", hint="build from one kind of file")
    if kinds[0] in TABLES:
        opened = _open_table(parts, vector_column, id_column, attributes, skip_bad_rows)
    else:
        named = [("vector", vector_column, DEFAULT_VECTOR)] if kinds[0] not in HDF5 else []
        for option, name, default in (*named, ("id", id_column, DEFAULT_ID)):
            if name != default:
                raise InputError(f"{option} column {name!r} is named, but {shown(parts[0].location)} has no columns")
        if attributes:
            raise InputError(f"attribute {attributes[0]!r} is named, but {shown(parts[0].location)} has no columns")
        opened = _open_matrix(parts, kinds[0], vector_column)
    return replace(opened, notes=(*notes, *opened.notes))


def source_metric(source: Source, asked: str | None) -> str:
    """The metric to build with: the one asked for, the file's own, or cosine.

    InputError where the two differ, or where the file's is none of ours and none was asked for.
    """
    where = shown(source.parts[0].location)
    if source.metric is not None and source.metric not in METRICS and asked is None:
        raise InputError(
            f"{where} says that its distance is {source.metric!r}, which is none of {', '.join(METRICS)}",
            hint="name the --metric that stands for it, if there is one",
        )
    if asked and source.metric in METRICS and asked != source.metric:
        raise InputError(
            f"--metric is {asked}, but {where} says {source.metric}",
            hint=f"leave --metric out, or save the vectors as .npy to build with {asked}",
        )
    return asked or source.metric or "cosine"


def _parts(paths: Sequence[str | Path]) -> tuple[tuple[Part, ...], list[str]]:
    """The files that `paths` name, folders replaced by their files; and notes."""
    parts: list[Part] = []
    notes: list[str] = []
    named: list[Location] = []
    for where in map(location, paths):
        check = inside(where)
        check_beside(where)
        if above := partitions_above(where):
            notes.append(f"{shown(where)} is read without {'/'.join(above)}: name the folder above for attributes.")
        if check is not None:
            parts += parts_of(where, lambda p: suffix_of(p) in SUFFIXES, notes)
        elif suffix_of(where) not in SUFFIXES:
            raise InputError(f"unknown kind of file: {shown(where)}", hint=KNOWN)
        else:
            parts.append(Part(where))
            named.append(where)
    check_numbered(named, False, notes)
    if not parts:
        raise InputError("no source is named", hint=KNOWN)
    for part in parts:
        if not isinstance(part.location, Path) and suffix_of(part.location) not in TABLES:
            raise InputError(
                f"{part.location} cannot be read from a store", hint="copy it here; Parquet and Arrow can be read"
            )
    return tuple(parts), notes


def _first_rows(parts: Sequence[Part], counts: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Number of the first row of each file, and of all rows."""
    ends = np.cumsum(counts).tolist()
    if not ends[-1]:
        others = ", nor the others" if parts[1:] else ""
        raise InputError(f"the source is empty: {shown(parts[0].location)} has no rows{others}")
    return (0, *ends[:-1]), ends[-1]


def _matrix(suffix: str, dataset: str) -> Matrix:
    if suffix not in HDF5 or dataset == DEFAULT_VECTOR:
        return MATRICES[suffix]
    return Matrix(partial(hdf5.header, dataset=dataset), partial(hdf5.batches, dataset=dataset))


def _open_matrix(parts: Sequence[Part], suffix: str, dataset: str) -> Source:
    files = [part.location for part in parts if isinstance(part.location, Path)]
    headers = [_matrix(suffix, dataset).header(path) for path in files]
    first_rows, rows = _first_rows(parts, [shape[0] for shape, _, _ in headers])
    full = [(path, shape[1], dtype) for path, (shape, dtype, _) in zip(files, headers, strict=True) if shape[0]]
    first, dimension, _ = full[0]
    for path, other, _ in full:
        if other != dimension:
            raise InputError(f"{shown(path)} holds vectors of {other} values, {shown(first)} of {dimension}")
    kinds = {NUMPY_KINDS[dtype.str[1:]] for _, _, dtype in full}
    if not dimension:
        raise InputError(f"the vectors of {shown(first)} have no values")
    metric, told = (None, []) if suffix not in HDF5 else _told_by_hdf5(files, dataset)
    return Source(
        parts=tuple(parts),
        first_rows=first_rows,
        rows=rows,
        dimension=dimension,
        kind=kinds.pop() if len(kinds) == 1 else "f32",
        id_kind="i64",
        attributes=pa.schema([]),
        notes=(f"Ids are row numbers: {suffix} files have none.", *told),
        vector_column=dataset,
        id_column=None,
        metric=metric,
    )


def _told_by_hdf5(files: Sequence[Path], dataset: str) -> tuple[str | None, list[str]]:
    """The metric that all files name, and notes on it and on what is not read. InputError where they differ."""
    named = None if dataset == DEFAULT_VECTOR else dataset
    metric, told = _one_metric({hdf5.metric(path, named): path for path in reversed(files)})
    others = hdf5.others(files[0], named)
    if others:
        told.append(f"Datasets of {shown(files[0])} that are not read: {', '.join(others[:BAD_ROWS_NAMED])}.")
    return metric, told


def _one_metric(metrics: Mapping[str | None, Location]) -> tuple[str | None, list[str]]:
    """What all files say of their metric, and a note on it. InputError where they differ."""
    if len(metrics) > 1:
        said = ", ".join(f"{shown(path)} {metric or 'nothing'}" for metric, path in metrics.items())
        raise InputError(f"the files say different things of their metric: {said}", hint="build from one kind of file")
    (metric,) = metrics
    return metric, [f"{shown(metrics[metric])} says that its metric is {metric}."] if metric else []


def _open_table(
    parts: tuple[Part, ...], vector_column: str, id_column: str, attributes: Sequence[str] | None, skip: bool
) -> Source:
    counts, schemas, notes = [], [], []
    said_twice: dict[str, Location] = {}
    words: dict[str | None, Location] = {}
    for part in parts:
        reader = TABLES[suffix_of(part.location)]
        count, columns = reader.header(part.location)
        said_twice |= {name: part.location for name in part.constants if name in columns.names}
        words |= {_named_metric(columns): part.location} if count else {}
        counts.append(count)
        schemas.append(_with_constants(columns, part))
        said = ipc.note(part.location) if reader is _IPC else None
        notes += [said] if said else []
    first_rows, rows = _first_rows(parts, counts)
    for name, where in said_twice.items():
        notes.append(f"The column {name!r} of {shown(where)} is read, not the partition of that name.")
    metric, told_metric = _one_metric(words)
    notes += told_metric
    # Files without rows say nothing about types: a writer that saw no value did not know them.
    full = [(part.location, schema) for part, schema, count in zip(parts, schemas, counts, strict=True) if count]
    first, schema = full[0]

    field_of(schema, vector_column, "vector", first)
    kind = _kind_of_vectors(full, vector_column, notes)
    id_kind, id_name = "i64", None
    if id_column == DEFAULT_ID and not any(id_column in other.names for _, other in full):
        notes.append(f"Ids are row numbers: there is no column {id_column!r}.")
    else:
        id_kind, id_name = _kind_of_ids(full, id_column, notes), id_column

    kept, skipped = attribute_fields(full, (vector_column, id_name), attributes)
    extra = {name for _, other in full for name in other.names} - {*schema.names, *skipped}
    if attributes is None and extra:
        location = next(where for where, other in full if extra & set(other.names))
        raise InputError(
            f"column {min(extra)!r} is in {shown(location)}, but missing in {shown(first)}",
            hint="all files of a source need the same columns; --attributes names those to keep",
        )
    if skipped:
        told = ", ".join(f"{name!r} ({kind})" for name, kind in skipped.items())
        notes.append(f"Columns left out, JSON cannot carry them: {told}.")
    return Source(
        parts=parts,
        first_rows=first_rows,
        rows=rows,
        dimension=_dimension(parts, counts, vector_column, [s.field(vector_column).type for _, s in full], skip),
        kind=kind,
        id_kind=id_kind,
        attributes=pa.schema([pa.field(attribute.name, _common_type(full, attribute.name)) for attribute in kept]),
        notes=tuple(notes),
        vector_column=vector_column,
        id_column=id_name,
        metric=metric,
    )


def _named_metric(schema: pa.Schema) -> str | None:
    """The metric that the metadata of a file names under `distance`: one of ours, or the file's own word; or None."""
    words = {value for key, value in (schema.metadata or {}).items() if key.lower() == b"distance"}
    return " and ".join(sorted(filter(None, (metric_of(word.decode(errors="replace")) for word in words)))) or None


def _with_constants(columns: pa.Schema, part: Part) -> pa.Schema:
    """The schema of a file with the columns that its location gives, or that it lacks."""
    for name, value in part.constants.items():
        columns = columns if name in columns.names else columns.append(pa.field(name, value.type))
    for column in part.absent or ():
        columns = columns if column.name in columns.names else columns.append(column)
    return columns


def _kind_of_vectors(full: Sequence[tuple[Location, pa.Schema]], column: str, notes: list[str]) -> str:
    """The normal form that holds the vectors of all files: f32 where they are of several."""
    kinds = set()
    for where, schema in full:
        kind = field_of(schema, column, "vector", where).type
        form = vector_kind(kind)
        if form is None:
            raise InputError(
                f"column {column!r} of {shown(where)} is {kind}",
                hint="a vector is a list of numbers of one length, or fixed-length binary",
            )
        kinds.add(form)
    if pa.types.is_fixed_size_binary(kind):
        notes.append(f"The bytes of column {column!r} are the vectors' values: {kind.byte_width} of u8.")
    kinds.discard("null")
    if not kinds:
        raise InputError(f"column {column!r} of {shown(full[0][0])} holds no vector, only nulls")
    return kinds.pop() if len(kinds) == 1 else "f32"


def _kind_of_ids(full: Sequence[tuple[Location, pa.Schema]], column: str, notes: list[str]) -> str:
    forms: dict[str, tuple[Location, pa.DataType]] = {}
    for where, schema in full:
        kind = field_of(schema, column, "id", where).type
        form = id_form(kind)
        if form is None:
            raise InputError(
                f"id column {column!r} of {shown(where)} is {kind}", hint="ids are integers, strings, UUIDs or binary"
            )
        forms.setdefault(form, (where, kind))
    if len(forms) > 1:
        forms.pop("null", None)
    if len(forms) > 1:
        (one, its), (other, type_of) = list(forms.values())[:2]
        raise InputError(
            f"column {column!r} is {type_of} in {shown(other)}, but {its} in {shown(one)}",
            hint="the ids of all files need to be of one kind",
        )
    if "binary" in forms:
        notes.append(f"Ids of column {column!r} are bytes; those that are no UTF-8 cannot be shown as text.")
    return "i64" if "integer" in forms else "bytes"


def _common_type(full: Sequence[tuple[Location, pa.Schema]], column: str) -> pa.DataType:
    """The plain type that holds an attribute of all files. InputError where there is none."""
    found = [(where, field_of(schema, column, "attribute", where).type) for where, schema in full]
    kinds = [plain_type(kind) for _, kind in found]
    if reduce(_merged, kinds) is None:  # pandas writes a column without values as one of floats
        nothing = [suffix_of(where) == ".parquet" and parquet.has_only_nulls(where, column) for where, _ in full]
        kinds = [pa.null() if none else kind for none, kind in zip(nothing, kinds, strict=True)]
    out = kinds[0]
    for (where, own), kind in zip(found, kinds, strict=True):
        merged = common(out, kind)
        if merged is None:
            raise InputError(
                f"column {column!r} is {own} in {shown(where)}, but {out} in {shown(full[0][0])}",
                hint="a column needs one kind of value in all files",
            )
        out = merged
    return out


def _merged(one: pa.DataType | None, other: pa.DataType) -> pa.DataType | None:
    return None if one is None else common(one, other)


def _dimension(
    parts: Sequence[Part], counts: Sequence[int], column: str, kinds: Sequence[pa.DataType], skip: bool
) -> int:
    """From the type, or else from the first vector that is not null; with `skip` the usual length of the first ones."""
    known = {length for kind in kinds if not pa.types.is_null(kind) for length in [vector_length(kind)]}
    if len(known) == 1 and None not in known:
        dimension = known.pop()
    else:
        dimension = None
        for part, count in zip(parts, counts, strict=True):
            for batch in _table_batches(part, [column], PROBE_ROWS) if count and dimension is None else ():
                vectors = vector_lists(batch.column(0))
                fixed = vector_length(vectors.type)
                lengths = [fixed] * (len(vectors) - vectors.null_count)
                if fixed is None and not pa.types.is_null(vectors.type):
                    lengths = [length for length in pc.list_value_length(vectors).to_pylist() if length is not None]
                if lengths:
                    dimension = Counter(lengths).most_common(1)[0][0] if skip else lengths[0]
                    break
    where = shown(parts[0].location)
    if dimension is None:
        raise InputError(f"column {column!r} of {where} holds no vector, only nulls")
    if not dimension:
        raise InputError(f"the vectors in column {column!r} of {where} have no values")
    return dimension
