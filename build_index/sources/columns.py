"""Column rules that every table format shares: which columns are taken, and how their values become rows."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vantage.errors import InputError
from vantage.format.layout import ID_BYTES_MAX

from .places import Place
from .rows import ARROW_KINDS, Array, refuse

JSON_DEPTH_MAX = 64  # arrays and objects in each other: the Worker's parser gives up far earlier than CPython's


def field_of(schema: pa.Schema, name: str, role: str, path: Place) -> pa.Field:
    """The one column `name`; InputError that lists the columns when there is none, or two."""
    found = schema.get_all_field_indices(name)
    if len(found) != 1:
        problem = "is missing in" if not found else f"is there {len(found)} times in"
        raise InputError(f"{role} column {name!r} {problem} {path}", hint=f"its columns are {', '.join(schema.names)}")
    return schema.field(found[0])


def attribute_fields(
    schema: pa.Schema, taken: tuple[str | None, ...], names: Sequence[str] | None, path: Place
) -> tuple[list[pa.Field], list[str]]:
    """Fields of the attributes, and what was left out without being named."""
    if names is None:
        others = [field_of(schema, name, "attribute", path) for name in schema.names if name not in taken]
        kept = [field for field in others if _json_can_carry(field.type)]
        return kept, [f"{field.name!r} ({field.type})" for field in others if field not in kept]
    kept = []
    for name in names:
        field = field_of(schema, name, "attribute", path)
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
    kind = plain_type(kind)
    if is_list(kind):
        return not is_json(kind.value_type) and _json_can_carry(kind.value_type)
    if pa.types.is_struct(kind):
        names, kinds = [field.name for field in kind], [field.type for field in kind]
        return len(names) == len(set(names)) and all(_json_can_carry(k) and not is_json(k) for k in kinds)
    return bool(
        _is_text(kind)
        or is_json(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_date(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def is_json(kind: pa.DataType) -> bool:
    """Whether the values are JSON texts: Arrow's extension type arrow.json, the logical type JSON of Parquet."""
    return isinstance(kind, pa.JsonType)


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    return bool(
        _is_text(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves, without a dictionary around them."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def vector_kind(kind: pa.DataType) -> str | None:
    if pa.types.is_fixed_size_binary(kind):
        return "u8"
    return ARROW_KINDS.get(kind.value_type) if is_list(kind) else None


def refuse_bad_text(column: pa.Array, reason: str) -> None:
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
        refuse(bad, reason)
        raise


def json_value(text: str) -> Any:
    """What a JSON text stands for. ValueError where it is none, or what we write could not be read everywhere.

    NaN, numbers beyond f64, halves of surrogate pairs and deep nesting are such.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("too deep") from None
    inner, depth = [value], 0
    while inner:
        lists = [one.values() if isinstance(one, dict) else one for one in inner if isinstance(one, dict | list)]
        inner, depth = [value for values in lists for value in values], depth + 1
        if depth > JSON_DEPTH_MAX:
            raise ValueError("too deep")
    return value


def refuse_bad_json(column: pa.Array, name: str) -> None:
    """Raises BadRows where a text of a JSON column is no JSON."""
    bad = np.zeros(len(column), bool)
    for row, text in enumerate(column.storage.to_pylist()):
        try:
            if text is not None:
                json_value(text)
        except ValueError:
            bad[row] = True
    refuse(bad, f"attribute {name!r} that is not JSON, or nested over {JSON_DEPTH_MAX} deep")


def vectors_of(column: pa.Array, dimension: int) -> Array:
    """(n, d) of the column's own type."""
    count = len(column)
    if column.null_count:
        refuse(column.is_null(), "vectors that are null")
    if pa.types.is_fixed_size_binary(column.type):
        data = np.frombuffer(column.buffers()[1], np.uint8)
        return data[column.offset * dimension :][: count * dimension].reshape(count, dimension)
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    refuse(lengths != dimension, f"vectors that have not {dimension} values, the dimension of the first one")
    values = column.flatten()
    if values.null_count:
        refuse(np.asarray(values.is_null()).reshape(count, dimension).any(axis=1), "vectors with values that are null")
    return np.asarray(values).reshape(count, dimension)


def ids_of(column: pa.Array) -> npt.NDArray[np.int64] | list[bytes]:
    column = plain(column)
    if column.null_count:
        refuse(column.is_null(), "ids that are null")
    if pa.types.is_integer(column.type):
        values = column.to_numpy(zero_copy_only=False)
        if values.dtype == np.uint64:
            refuse(values > np.iinfo(np.int64).max, "ids over 2^63 - 1")
        return np.asarray(values, np.int64)
    if _is_text(column.type):
        refuse_bad_text(column, "ids that are not UTF-8")
    column = column.cast(pa.large_binary())
    lengths = pc.binary_length(column).to_numpy(zero_copy_only=False)
    refuse(lengths == 0, "ids that are empty")
    refuse(lengths > ID_BYTES_MAX, f"ids over {ID_BYTES_MAX} bytes")
    ids: list[bytes] = column.to_pylist()
    return ids
