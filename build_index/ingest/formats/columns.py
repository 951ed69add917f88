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

from .address import Location, shown
from .batch import ARROW_KINDS, Array, refuse
from .types import is_binary, is_json, is_list, is_list_view, is_text, list_offsets, plain, plain_type, runs_of

LISTS = (
    (pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list), (pa.types.is_list_view, pa.list_view),
    (pa.types.is_large_list_view, pa.large_list_view),
)  # fmt: skip
TEXTS = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
JSON_DEPTH_MAX = 64  # arrays and objects in each other: the Worker's parser gives up far earlier than CPython's


def field_of(schema: pa.Schema, name: str, role: str, path: Location) -> pa.Field:
    """The one column `name`; InputError that lists the columns when there is none, or two."""
    positions = schema.get_all_field_indices(name)
    if len(positions) != 1:
        problem = "is missing in" if not positions else f"is there {len(positions)} times in"
        option = f"; name one with --{role}-column" if role in ("vector", "id") and not positions else ""
        raise InputError(
            f"{role} column {name!r} {problem} {shown(path)}", hint=f"its columns are {', '.join(schema.names)}{option}"
        )
    return schema.field(positions[0])


def attribute_fields(
    full: Sequence[tuple[Location, pa.Schema]], taken: tuple[str | None, ...], names: Sequence[str] | None
) -> tuple[list[pa.Field], dict[str, pa.DataType]]:
    """Fields of the attributes, of the first file, and the columns that JSON cannot carry in one of the files."""
    path, schema = full[0]
    odd: dict[str, pa.DataType] = {}
    for _, other in full:
        pairs = zip(other.names, other.types, strict=True)
        odd |= {name: kind for name, kind in pairs if name not in taken and not _json_can_carry(kind)}
    if names is None:
        others = [field_of(schema, name, "attribute", path) for name in schema.names if name not in taken]
        return [field for field in others if field.name not in odd], odd
    kept = []
    for name in names:
        field = field_of(schema, name, "attribute", path)
        if name in taken or field in kept:
            raise InputError(f"attribute {name!r} is named twice, or is the vector or id column already")
        if name in odd:
            where = next(
                location for location, other in full if name in other.names and other.field(name).type == odd[name]
            )
            raise InputError(
                f"attribute {name!r} of {shown(where)} is {odd[name]}, which JSON cannot carry",
                hint="attributes are text, numbers, booleans, times, UUIDs, and lists, maps and structs of these",
            )
        kept.append(field)
    return kept, {}


def _json_can_carry(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    if is_list(kind):
        return not is_json(kind.value_type) and _json_can_carry(kind.value_type)
    if pa.types.is_map(kind):
        return is_text(kind.key_type) and not is_json(kind.item_type) and _json_can_carry(kind.item_type)
    if pa.types.is_struct(kind):
        names, kinds = [field.name for field in kind], [field.type for field in kind]
        unique = bool(names) and len(names) == len(set(names))
        return unique and all(_json_can_carry(k) and not is_json(k) for k in kinds)
    return bool(
        is_text(kind)
        or is_json(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_date(kind)
        or pa.types.is_time(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_duration(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def id_form(kind: pa.DataType) -> str | None:
    """ "integer", "text" or "binary", which files of one source may not mix; "null" fits all; None: no type of ids."""
    kind = plain_type(kind)
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_null(kind):
        return "null"
    return "text" if is_text(kind) else "binary" if is_binary(kind) else None


def vector_kind(kind: pa.DataType) -> str | None:
    """The normal form of a column of vectors; "null" for one of nulls alone, None for what is no vector."""
    while pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.value_type
    if isinstance(kind, pa.FixedShapeTensorType):
        # A tensor of another shape than (d) or (1, d) is no vector.
        return vector_kind(kind.storage_type) if sum(n != 1 for n in kind.shape) <= 1 else None
    if pa.types.is_fixed_size_binary(kind):
        return "u8"
    if pa.types.is_null(kind):
        return "null"
    value = kind.value_type if is_list(kind) else None
    if value is not None and (pa.types.is_integer(value) or pa.types.is_decimal(value)):
        return ARROW_KINDS.get(value, "f32")
    return ARROW_KINDS.get(value)


def vector_length(kind: pa.DataType) -> int | None:
    """How many values vectors of this type have; None where each row tells."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return vector_length(kind.value_type)
    if isinstance(kind, pa.FixedShapeTensorType):
        return vector_length(kind.storage_type)
    if pa.types.is_fixed_size_binary(kind):
        return int(kind.byte_width)
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else None


def vector_lists(column: pa.Array) -> pa.Array:
    """The vectors of a valid column without what is around them: lists, or binary of fixed length."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return vector_lists(column.dictionary).take(column.indices)
    if pa.types.is_run_end_encoded(kind):
        return vector_lists(column.values).take(pa.array(runs_of(column)))
    if isinstance(kind, pa.FixedShapeTensorType):
        return vector_lists(column.storage)
    if is_list_view(kind):
        return pa.LargeListArray.from_arrays(
            pa.array(list_offsets(column), pa.int64()), column.flatten(), mask=column.is_null()
        )
    return column


def structure(column: pa.Array) -> None:
    """Raises pa.ArrowInvalid where offsets, indices or lengths point outside of the column: a file may be made so."""
    column = column.storage if isinstance(column.type, pa.BaseExtensionType) else column
    column.view(_twin(column.type)).validate(full=True)


def _twin(kind: pa.DataType, text: bool = False) -> pa.DataType:
    """A type of the same layout whose values may be any bytes; with `text`, text has to be UTF-8."""
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _twin(kind.value_type, text), kind.ordered)
    if pa.types.is_run_end_encoded(kind):
        return pa.run_end_encoded(kind.run_end_type, _twin(kind.value_type, text))
    if pa.types.is_map(kind):
        return pa.map_(_twin(kind.key_type, text), _twin(kind.item_type, text), kind.keys_sorted)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_twin(field.type, text)) for field in kind])
    for like, twin in LISTS:
        if like(kind):
            return twin(kind.value_field.with_type(_twin(kind.value_type, text)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_twin(kind.value_type, text)), kind.list_size)
    if pa.types.is_decimal(kind):
        return pa.binary(kind.bit_width // 8)
    if pa.types.is_temporal(kind) and kind != pa.month_day_nano_interval():
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    return kind if text else TEXTS.get(kind, kind)


def refuse_bad_text(column: pa.Array, reason: str) -> None:
    """Raises when text in a plain column is not UTF-8, which readers do not check."""
    if not _is_utf8(column):
        # Taken, not sliced: a slice of lists is looked at with all that the column holds.
        refuse(np.array([not _is_utf8(column.take(pa.array([row]))) for row in range(len(column))]), reason)


def _is_utf8(column: pa.Array) -> bool:
    column = column.storage if isinstance(column.type, pa.BaseExtensionType) else column
    try:
        column.view(_twin(column.type, text=True)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


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
    while lists := [one.values() if isinstance(one, dict) else one for one in inner if isinstance(one, dict | list)]:
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
    """(n, d) of the column's own type; decimals as f64."""
    count = len(column)
    if column.null_count:
        refuse(column.is_null(), "vectors that are null")
    column = vector_lists(column)
    if column.null_count:  # of a dictionary or of runs, whose own values are null
        refuse(column.is_null(), "vectors that are null")
    unlike = f"vectors that have not {dimension} values, the dimension of the first one"
    if pa.types.is_fixed_size_binary(column.type):
        refuse(np.full(count, column.type.byte_width != dimension), unlike)
        data = np.frombuffer(column.buffers()[1], np.uint8)
        return data[column.offset * dimension :][: count * dimension].reshape(count, dimension)
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    refuse(lengths != dimension, unlike)
    values = column.flatten()
    if values.null_count:
        refuse(np.asarray(values.is_null()).reshape(count, dimension).any(axis=1), "vectors with values that are null")
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    return np.asarray(values).reshape(count, dimension)


def ids_of(column: pa.Array) -> npt.NDArray[np.int64] | list[bytes]:
    column = plain(column, plain_type(column.type))
    if column.null_count:
        refuse(column.is_null(), "ids that are null")
    if pa.types.is_integer(column.type):
        values = column.to_numpy(zero_copy_only=False)
        if values.dtype == np.uint64:
            refuse(values > np.iinfo(np.int64).max, "ids over 2^63 - 1")
        return np.asarray(values, np.int64)
    if is_text(column.type):
        refuse_bad_text(column, "ids that are not UTF-8")
    column = column.cast(pa.binary())
    lengths = pc.binary_length(column).to_numpy(zero_copy_only=False)
    refuse(lengths == 0, "ids that are empty")
    refuse(lengths > ID_BYTES_MAX, f"ids over {ID_BYTES_MAX} bytes")
    ids: list[bytes] = column.to_pylist()
    return ids
