"""Brings Arrow columns to plain types: encodings, views and large types undone, one type for files that differ."""

import re
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

T = pa.types
TIMES = ("s", "ms", "us", "ns")


def type_called(name: str) -> pa.DataType | None:
    """The type that has this name, of those that columns can be stored by another one of: lists and times, and what
    Arrow knows by name. None for others.
    """
    if match := re.fullmatch(r"list<([^:]*): (.*?)( not null)?>", name):
        inside = type_called(match[2])
        return inside and pa.list_(pa.field(match[1], inside, nullable=not match[3]))
    if match := re.fullmatch(r"timestamp\[(s|ms|us|ns), tz=(.*)\]", name):
        return pa.timestamp(match[1], match[2])
    with suppress(ValueError):
        return pa.type_for_alias(name)
    return None


def is_json(kind: pa.DataType) -> bool:
    """Whether the values are JSON texts: Arrow's extension type arrow.json, the logical type JSON of Parquet."""
    return isinstance(kind, pa.JsonType)


def is_uuid(kind: pa.DataType) -> bool:
    """Whether the values are UUIDs by their type; 16 bytes without it may be anything."""
    return isinstance(kind, pa.UuidType)


def is_text(kind: pa.DataType) -> bool:
    return bool(T.is_string(kind) or T.is_large_string(kind) or T.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    return bool(T.is_binary(kind) or T.is_large_binary(kind) or T.is_binary_view(kind) or T.is_fixed_size_binary(kind))


def is_view(kind: pa.DataType) -> bool:
    return bool(T.is_string_view(kind) or T.is_binary_view(kind))


def is_list_view(kind: pa.DataType) -> bool:
    return bool(T.is_list_view(kind) or T.is_large_list_view(kind))


def is_list(kind: pa.DataType) -> bool:
    return bool(T.is_list(kind) or T.is_large_list(kind) or T.is_fixed_size_list(kind) or is_list_view(kind))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that `plain` gives a column of this one: no dictionaries, runs or views; UUIDs are strings."""
    if T.is_dictionary(kind) or T.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if is_text(kind) or is_uuid(kind):
        return pa.string()
    if T.is_large_binary(kind) or T.is_binary_view(kind):
        return pa.binary()
    if T.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if T.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    if isinstance(kind, pa.FixedShapeTensorType):
        return plain_type(kind.storage_type)
    return pa.bool_() if isinstance(kind, pa.Bool8Type) else kind


def _plain_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, plain_type(field.type))


def common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The plain type that holds the values of two plain types as they are; None where there is none."""
    if one == other or T.is_null(other):
        return one
    if T.is_null(one):
        return other
    if T.is_integer(one) and T.is_integer(other):
        wide = np.result_type(one.to_pandas_dtype(), other.to_pandas_dtype())
        # No type holds all of u64 and of i64: rows beyond i64 are refused then.
        return pa.from_numpy_dtype(wide) if wide.kind in "iu" else pa.int64()
    if _is_number(one) and _is_number(other):
        return pa.float64() if T.is_integer(one) or T.is_integer(other) else max(one, other, key=lambda k: k.bit_width)
    if T.is_decimal(one) and T.is_decimal(other) and one.scale == other.scale:
        return max(one, other, key=lambda k: (k.precision, k.bit_width))
    if T.is_timestamp(one) and T.is_timestamp(other) and bool(one.tz) == bool(other.tz):
        zone = one.tz if one.tz == other.tz else "UTC"  # a zone changes how an instant is shown, not which it is
        return pa.timestamp(max(one.unit, other.unit, key=TIMES.index), zone)
    for same in (T.is_time, T.is_duration):
        if same(one) and same(other):
            return max(one, other, key=lambda k: TIMES.index(k.unit))
    if T.is_date(one) and T.is_date(other):
        return pa.date32()
    if is_list(one) and is_list(other):
        inner = common(one.value_type, other.value_type)
        return None if inner is None else pa.list_(pa.field(one.value_field.name, inner))
    if T.is_map(one) and T.is_map(other):
        inner = common(one.item_type, other.item_type)
        return pa.map_(one.key_type, inner) if inner is not None and one.key_type == other.key_type else None
    return _common_struct(one, other) if T.is_struct(one) and T.is_struct(other) else None


def _is_number(kind: pa.DataType) -> bool:
    return bool(T.is_integer(kind) or T.is_floating(kind))


def _common_struct(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Fields of both by name, those of `one` first; what a file lacks is null there."""
    theirs, fields = {field.name: field.type for field in other}, dict[str, pa.DataType | None]()
    for field in one:
        fields[field.name] = common(field.type, theirs.pop(field.name, field.type))
    fields |= theirs
    return pa.struct(list(fields.items())) if all(kind is not None for kind in fields.values()) else None


def plain(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column as `kind`, which is its `plain_type`, or `common` to that and others.

    The column must be valid. Raises pa.ArrowInvalid where a value does not fit `kind`.
    """
    own = column.type
    if own == kind:
        return column
    if column.null_count == len(column):
        return pa.nulls(len(column), kind)
    if T.is_dictionary(own):
        return plain(column.dictionary, kind).take(column.indices)
    if T.is_run_end_encoded(own):
        return plain(column.values, kind).take(pa.array(runs_of(column)))
    if is_uuid(own):
        texts = [None if value is None else str(value) for value in column.to_pylist()]
        return pa.array(texts, pa.string())
    if isinstance(own, pa.FixedShapeTensorType):
        return plain(column.storage, kind)
    if is_list(own):
        return as_lists(column, plain(column.flatten(), kind.value_type), kind)
    if T.is_map(own):
        inner = map_entries(column).flatten()
        keys, values = plain(inner.field(0), kind.key_type), plain(inner.field(1), kind.item_type)
        return as_maps(column, values, keys)
    if T.is_struct(own):
        there = {field.name: i for i, field in enumerate(own)}
        fields = [
            plain(column.field(there[field.name]), field.type)
            if field.name in there
            else pa.nulls(len(column), field.type)
            for field in kind
        ]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=column.is_null())
    if common(plain_type(own), kind) != kind:  # a file that says it has only nulls, and has values
        raise pa.ArrowInvalid(f"{own} is no {kind}")
    return column.cast(kind)


def list_offsets(column: pa.Array) -> np.ndarray[Any, Any]:
    """int64 (n + 1): where the lists of a column lie in `column.flatten()`, which leaves those of null lists out."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    # The lengths of null fixed-size lists are not null.
    lengths = np.where(np.asarray(column.is_null()), 0, lengths)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def as_lists(column: pa.Array, values: pa.Array, kind: pa.DataType | None = None) -> pa.Array:
    """`values`, made of the values of a column of lists, as lists like those of the column."""
    offsets = pa.array(list_offsets(column), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, type=kind, mask=column.is_null())


def as_maps(column: pa.Array, values: pa.Array, keys: pa.Array) -> pa.Array:
    """`keys` and `values` of a column of maps, made of its own, as maps like those of the column."""
    offsets = pa.array(list_offsets(map_entries(column)), pa.int32())
    return pa.MapArray.from_arrays(offsets, keys, values, mask=column.is_null())


def map_entries(column: pa.Array) -> pa.Array:
    """A column of maps as lists of structs of key and value."""
    kind = column.type
    entry = pa.struct([pa.field("key", kind.key_type, nullable=False), pa.field("value", kind.item_type)])
    return column.cast(pa.list_(entry))


def runs_of(column: Any) -> np.ndarray[Any, Any]:
    """int64 (n): at which of its values each row of a run-end encoded column lies."""
    ends = column.run_ends.to_numpy(zero_copy_only=False)
    return np.searchsorted(ends, np.arange(column.offset, column.offset + len(column)), side="right")
