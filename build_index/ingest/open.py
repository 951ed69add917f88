"""Opens files, folders and URLs as one source: which files, of which format, and what their schemas say of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vantage.errors import InputError
from vantage.format import METRICS

from .formats import hdf5, parquet
from .formats.address import Location, Part, inside, location, shown, suffix_of
from .formats.batch import BAD_ROWS_NAMED, NUMPY_KINDS
from .formats.columns import attribute_fields, field_of, id_form, vector_kind, vector_length, vector_lists
from .formats.distance import metric_of
from .formats.folders import check_beside, check_numbered, partitions_above, parts_of, same_file_twice
from .formats.registry import DEFAULT_VECTOR, HDF5, SUFFIXES, TABLES, matrix_format, table_batches
from .formats.types import common, plain_type
from .source import Source

DEFAULT_ID = "id"
KNOWN = f"sources are {', '.join(SUFFIXES)} files, or folders of one kind"

# Rows read at a time while looking for the first vector, whose length is the dimension of list columns.
PROBE_ROWS = 64


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
        source = _open_table(parts, vector_column, id_column, attributes, skip_bad_rows)
    else:
        named = [("vector", vector_column, DEFAULT_VECTOR)] if kinds[0] not in HDF5 else []
        for option, name, default in (*named, ("id", id_column, DEFAULT_ID)):
            if name != default:
                raise InputError(f"{option} column {name!r} is named, but {shown(parts[0].location)} has no columns")
        if attributes:
            raise InputError(f"attribute {attributes[0]!r} is named, but {shown(parts[0].location)} has no columns")
        source = _open_matrix(parts, kinds[0], vector_column)
    return replace(source, notes=(*notes, *source.notes))


def source_metric(source: Source, wish: str | None) -> str:
    """The metric to build with: the one wished for, the file's own, or cosine.

    InputError where the two differ, or where we do not have the file's and none was wished for.
    """
    where = shown(source.parts[0].location)
    if source.metric is not None and source.metric not in METRICS and wish is None:
        raise InputError(
            f"{where} says that its distance is {source.metric!r}, which is not one of {', '.join(METRICS)}",
            hint="name the --metric that stands for it, if there is one",
        )
    if wish and source.metric in METRICS and wish != source.metric:
        raise InputError(
            f"--metric is {wish}, but {where} says {source.metric}",
            hint=f"leave --metric out, or save the vectors as .npy to build with {wish}",
        )
    return wish or source.metric or "cosine"


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


def _open_matrix(parts: Sequence[Part], suffix: str, dataset: str) -> Source:
    files = [part.location for part in parts if isinstance(part.location, Path)]
    headers = [matrix_format(suffix, dataset).header(path) for path in files]
    first_rows, rows = _first_rows(parts, [shape[0] for shape, _, _ in headers])
    full = [(path, shape[1], dtype) for path, (shape, dtype, _) in zip(files, headers, strict=True) if shape[0]]
    first, dimension, _ = full[0]
    for path, other, _ in full:
        if other != dimension:
            raise InputError(f"{shown(path)} holds vectors of {other} values, {shown(first)} of {dimension}")
    kinds = {NUMPY_KINDS[dtype.str[1:]] for _, _, dtype in full}
    if not dimension:
        raise InputError(f"the vectors of {shown(first)} have no values")
    metric, notes = (None, []) if suffix not in HDF5 else _hdf5_metric(files, dataset)
    return Source(
        parts=tuple(parts),
        first_rows=first_rows,
        rows=rows,
        dimension=dimension,
        kind=kinds.pop() if len(kinds) == 1 else "f32",
        id_kind="i64",
        attributes=pa.schema([]),
        notes=(f"Ids are row numbers: {suffix} files have none.", *notes),
        vector_column=dataset,
        id_column=None,
        metric=metric,
    )


def _hdf5_metric(files: Sequence[Path], dataset: str) -> tuple[str | None, list[str]]:
    """The metric that all files name, and notes on it and on what is not read. InputError where they differ."""
    named = None if dataset == DEFAULT_VECTOR else dataset
    metric, notes = _one_metric({hdf5.metric(path, named): path for path in reversed(files)})
    others = hdf5.others(files[0], named)
    if others:
        notes.append(f"Datasets of {shown(files[0])} that are not read: {', '.join(others[:BAD_ROWS_NAMED])}.")
    return metric, notes


def _one_metric(metrics: Mapping[str | None, Location]) -> tuple[str | None, list[str]]:
    """What all files say of their metric, and a note on it. InputError where they differ."""
    if len(metrics) > 1:
        claims = ", ".join(f"{shown(path)} {metric or 'nothing'}" for metric, path in metrics.items())
        raise InputError(
            f"the files say different things of their metric: {claims}", hint="build from one kind of file"
        )
    (metric,) = metrics
    return metric, [f"{shown(metrics[metric])} says that its metric is {metric}."] if metric else []


def _open_table(
    parts: tuple[Part, ...], vector_column: str, id_column: str, attributes: Sequence[str] | None, skip: bool
) -> Source:
    counts, schemas, notes = [], [], []
    twofold: dict[str, Location] = {}
    metrics: dict[str | None, Location] = {}
    for part in parts:
        reader = TABLES[suffix_of(part.location)]
        count, columns = reader.header(part.location)
        twofold |= {name: part.location for name in part.constants if name in columns.names}
        metrics |= {_named_metric(columns): part.location} if count else {}
        counts.append(count)
        schemas.append(_with_constants(columns, part))
        note = reader.note(part.location)
        notes += [note] if note else []
    first_rows, rows = _first_rows(parts, counts)
    for name, where in twofold.items():
        notes.append(f"The column {name!r} of {shown(where)} is read, not the partition of that name.")
    metric, metric_notes = _one_metric(metrics)
    notes += metric_notes
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
        names = ", ".join(f"{name!r} ({kind})" for name, kind in skipped.items())
        notes.append(f"Columns left out, JSON cannot carry them: {names}.")
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
    types = [(where, field_of(schema, column, "attribute", where).type) for where, schema in full]
    kinds = [plain_type(kind) for _, kind in types]
    if reduce(_merge, kinds) is None:  # pandas writes a column without values as one of floats
        nothing = [suffix_of(where) == ".parquet" and parquet.has_only_nulls(where, column) for where, _ in full]
        kinds = [pa.null() if none else kind for none, kind in zip(nothing, kinds, strict=True)]
    out = kinds[0]
    for (where, own), kind in zip(types, kinds, strict=True):
        merged = common(out, kind)
        if merged is None:
            raise InputError(
                f"column {column!r} is {own} in {shown(where)}, but {out} in {shown(full[0][0])}",
                hint="a column needs one kind of value in all files",
            )
        out = merged
    return out


def _merge(one: pa.DataType | None, other: pa.DataType) -> pa.DataType | None:
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
            for batch in table_batches(part, [column], PROBE_ROWS) if count and dimension is None else ():
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
