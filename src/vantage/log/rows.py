"""Rows as they are sent -> as a log has them: vectors as the index stores them, attributes as JSON, all checked."""

from __future__ import annotations

import json
import math
import re
import struct
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from .. import kernels
from ..errors import DamagedError, InputError, LimitError
from ..filter.facet import values_of
from ..filter.keys import SECOND, key_time, time_key
from ..format import (
    ATTRIBUTE_ROW_BYTES_MAX,
    ATTRIBUTE_ROW_PARTS_MAX,
    LENGTH_MAX,
    VECTOR_BYTES,
    FilterField,
    IndexSection,
)
from ..format.log import RowShape
from ..search.rank import comparable, lengths_of

ROW_SQUARE_MAX = 0.999999e36  # of a vector that is written
SCALE_SHARE = 0.9999  # of the longest that a scale holds: float32 rounds here in another way than in a compaction
_CODES = {"f16": "e", "f32": "f", "u8": "B", "i8": "b"}
_INTEGER = re.compile(r"(u?)int(8|16|32|64)")
_LIST = re.compile(r"list<[^:]*: (.*)>")
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(, tz=.*)?\]")
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}  # of a second, as texts of a type have them
_FLOATS = {"halffloat": ("e", 5), "float": ("f", 9)}  # their codes, and digits that tell all of them apart


def stored_vector(values: Sequence[float], shape: RowShape, param: str) -> bytes:
    """A vector as the index stores it. Raises InputError or LimitError; what `check_vectors` finds, it leaves."""
    if len(values) != shape.dimension:
        hint = "send a vector of the index's dimension"
        raise LimitError(f"the length of {param}", len(values), shape.dimension, hint=hint, param=param)
    kind = shape.vector_kind
    try:
        if not {int, float}.issuperset(map(type, values)):  # True is a number to struct
            raise TypeError
        if kind in ("u8", "i8") and float in map(type, values):
            if any(value != int(value) for value in values):
                raise TypeError
            values = list(map(int, values))
        return struct.pack(f"<{shape.dimension}{_CODES[kind]}", *values)
    except (TypeError, ValueError, OverflowError, struct.error):
        what = {"u8": "whole numbers of 0 to 255", "i8": "whole numbers of -128 to 127", "f16": "float16 numbers"}
        raise InputError(
            f"{param} does not hold {what.get(kind, 'float32 numbers')}", hint="send what the index stores", param=param
        ) from None


def check_vectors(vectors: bytes, shape: RowShape, metric: str, where: str) -> None:
    """Raises InputError for stored vectors (n, d) that no row may have, by the number of the first: `where`[i].vector.

    Refused are NaN and infinities, norms past 1e18, which no build takes, and under cosine those without a direction.
    """
    width, d = shape.vector_bytes, shape.dimension
    squares = array("f", bytes(4 * (len(vectors) // width)))
    if shape.vector_kind in ("f16", "f32"):
        kernel = kernels.l2_f16 if shape.vector_kind == "f16" else kernels.l2_f32
        kernel(bytes(4 * d), vectors, 0, width, len(squares), d, squares)
    else:
        squares = array("f", [any(vectors[i * width : (i + 1) * width]) for i in range(len(squares))])
    for i, square in enumerate(squares):
        param = f"{where}[{i}].vector"
        if not square < ROW_SQUARE_MAX:  # NaN is not
            raise InputError(
                f"{param} is not finite as {shape.vector_kind}, or its norm is too large",
                hint="send finite numbers", param=param,
            )  # fmt: skip
        if metric == "cosine" and not square:
            raise InputError(f"{param} is zero", hint="a zero vector has no direction under cosine", param=param)


def check_scale(vectors: bytes, index: IndexSection, where: str) -> None:
    """Raises InputError for the first of stored vectors (n, d), `where`[i].vector, that is too long for the scale of an
    index: no compaction could take it.
    """
    limit, kind = LENGTH_MAX.get(index.metric), index.vector_kind
    if limit is None or not index.rows:
        return
    data, kind = comparable(vectors, kind)
    n = len(vectors) // (VECTOR_BYTES[index.vector_kind] * index.dimension)
    for i, length in enumerate(lengths_of(data, n, kind, index.dimension, bytes(index.origin))):
        if length * index.row_scale > SCALE_SHARE * limit:
            param = f"{where}[{i}].vector"
            raise InputError(
                f"{param} is {length * index.row_scale:.4g} times as long as the rows that the index was built of; at "
                f"most {limit:g} times fits its scale",
                hint="send it in the unit of the others, or build an index of such rows", param=param,
            )  # fmt: skip


def stored_attributes(value: Any, types: Mapping[str, str], fields: Mapping[str, FilterField], param: str) -> bytes:
    """Attributes as a JSON object, each as the index would have it once it is built in; b"" of none.

    types: of the attributes by name, as the index's schema has them; fields: of those that can be filtered by. Raises
    InputError or LimitError.
    """
    if value is None:
        return b""
    if not isinstance(value, dict):
        raise InputError(f"{param} is not an object", hint='{"lang": "de"}', param=param)
    out = {}
    for name, one in value.items():
        where = f"{param}.{name[:80]}"
        if name not in types:
            hint = f"it has: {', '.join(types) or 'none'}"[:400]
            raise InputError(f"{where}: {name[:80]!r} is no attribute of this index", hint=hint, param=where)
        out[name] = _fitting(list(one) if isinstance(one, array) else one, types[name], where)
        if name in fields:
            try:
                values_of(fields[name], out[name], where)
            except DamagedError:
                what = f"{where} has more values than filters take, or one beyond 64 bits"
                raise InputError(what, hint="send fewer or smaller ones", param=where) from None
    text = json.dumps(out, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = text.count("[") + text.count("{") + text.count('"')
    if parts > ATTRIBUTE_ROW_PARTS_MAX:
        what = f"the number of brackets and quotes of {param}"
        raise LimitError(what, parts, ATTRIBUTE_ROW_PARTS_MAX, hint="send less", param=param)
    data = text.encode()
    if len(data) > ATTRIBUTE_ROW_BYTES_MAX:
        what = f"the length of {param}, in bytes,"
        raise LimitError(what, len(data), ATTRIBUTE_ROW_BYTES_MAX, hint="send less", param=param)
    return data


def _fitting(value: Any, kind: str, where: str) -> Any:
    """A value as an index with an attribute of this (Arrow) type has it. Raises InputError."""
    if value is None:
        return None
    if match := _LIST.fullmatch(kind):
        if not isinstance(value, list):
            raise _wrong(where, "a list")
        return [_fitting(one, match[1], f"{where}[{i}]") for i, one in enumerate(value)]
    if kind == "extension<arrow.json>":
        return _finite(value, where)
    if kind == "string":
        return _of(str, value, where, "a string")
    if kind == "bool":
        return _of(bool, value, where, "true or false")
    if match := _INTEGER.fullmatch(kind):
        bits = int(match[2])
        low, high = (0, (1 << bits) - 1) if match[1] else (-(1 << bits - 1), (1 << bits - 1) - 1)
        if type(value) is not int or not low <= value <= high:
            raise _wrong(where, f"an integer of {low} to {high}")
        return value
    if kind in ("double", *_FLOATS):
        return _number(value, kind, where)
    if kind.startswith("date") or _TIMESTAMP.fullmatch(kind):
        return _time(value, kind, where)
    raise InputError(
        f"{where}: attributes of type {kind} are not written to", hint="build the index again to change them",
        param=where,
    )  # fmt: skip


def _wrong(where: str, what: str) -> InputError:
    return InputError(f"{where} is of another type", hint=f"send {what}, or null", param=where)


def _of(type_: type, value: Any, where: str, what: str) -> Any:
    if type(value) is not type_:
        raise _wrong(where, what)
    return value


def _finite(value: Any, where: str) -> Any:
    """Any value, if its numbers are finite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(where, "finite numbers")
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(one, where)
    return value


def _number(value: Any, kind: str, where: str) -> float:
    """A number as a column of this type would give it back: 0.1, not 0.10000000149011612."""
    try:
        if type(value) not in (int, float) or not math.isfinite(number := float(value)):
            raise OverflowError
        if kind == "double":
            return number
        code, digits = _FLOATS[kind]
        data = struct.pack(code, number)
        [rounded] = struct.unpack(code, data)
        for n in range(1, digits + 1):
            if struct.pack(code, short := float(f"{rounded:.{n}g}")) == data:
                return short
        return float(rounded)
    except (OverflowError, struct.error):
        raise _wrong(where, f"a finite number ({kind})") from None


def _time(value: Any, kind: str, where: str) -> str:
    """A time as texts of this type are stored: in UTC, with as many digits as its unit has."""
    hint = "a time of RFC 3339: 2024-05-01T12:00:00Z" if kind.startswith("timestamp") else "a date: 2024-05-01"
    try:
        key = time_key(_of(str, value, where, hint))
        whole = key_time(key).removesuffix("Z").partition(".")[0]
    except (ValueError, OverflowError):
        raise _wrong(where, hint) from None
    match = _TIMESTAMP.fullmatch(kind)
    if match is None:
        if key % (86_400 * SECOND):
            raise _wrong(where, hint)
        return whole[:10]
    micros, digits = f"{key % SECOND:06}000", _DIGITS[match[1]]
    if micros[digits:].strip("0"):
        raise _wrong(where, f"a time of whole {match[1]}")
    return whole + (f".{micros[:digits]}" if digits else "") + ("Z" if match[2] else "")
