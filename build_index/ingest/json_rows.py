"""Attributes of rows as JSON texts, whatever Arrow types their columns have."""

from __future__ import annotations

from json import JSONEncoder
from typing import Any
from warnings import catch_warnings

import pyarrow as pa
import pyarrow.compute as pc

from .formats.columns import json_value
from .formats.types import as_lists, as_maps, is_json, map_entries

# In seconds: what a year of four digits can tell.
YEAR_1, YEAR_10000 = -62_135_596_800, 253_402_300_800
DAY = 86_400
UNITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}

_encode = JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False, allow_nan=False).encode


def json_rows(table: pa.Table, rows: int) -> list[bytes]:
    """A compact JSON array of each row's values, in column order."""
    if not table.num_columns:
        return [b"[]"] * rows
    columns = [_values(column.combine_chunks()) for column in table.columns]
    return [_encode(row).encode() for row in zip(*columns, strict=True)]


def _values(column: pa.Array) -> list[Any]:
    if is_json(column.type):
        return [None if text is None else json_value(text) for text in column.storage.to_pylist()]
    with catch_warnings(action="ignore"):  # of keys that a map has twice: the last one counts
        values: list[Any] = _json_values(column).to_pylist(maps_as_pydicts="lossy")
    return values


def _json_values(column: pa.Array) -> pa.Array:
    """The plain column with types that JSON knows: NaN and infinities become null, dates, times and decimals strings.

    Dates and timestamps outside of the years 1 to 9999 become null too: they stand for infinity, or nobody can read
    them. Times outside of a day likewise. A duration is a number of seconds in ISO 8601, PT1.5S.
    """
    kind = column.type
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))
        if kind == pa.float64():
            return column
        # By way of the shortest decimal: 0.1 in f32 is to be read as 0.1, not as 0.10000000149011612.
        return column.cast(pa.float32()).cast(pa.string()).cast(pa.float64())
    if pa.types.is_timestamp(kind):
        # Values with a zone are stored in UTC: dropping the zone shows UTC, with no need for a zone database.
        column = _within(column.cast(pa.timestamp(kind.unit)), YEAR_1, YEAR_10000, UNITS[kind.unit])
        text = pc.replace_substring(column.cast(pa.string()), " ", "T", max_replacements=1)
        return pc.binary_join_element_wise(text, "Z", "") if kind.tz else text
    if pa.types.is_date(kind):
        days = kind == pa.date32()
        low, high, digits = (YEAR_1 // DAY, YEAR_10000 // DAY, 0) if days else (YEAR_1, YEAR_10000, UNITS["ms"])
        return _within(column, low, high, digits).cast(pa.date32(), safe=False).cast(pa.string())
    if pa.types.is_time(kind):
        return _within(column, 0, DAY, UNITS[kind.unit]).cast(pa.string())
    if pa.types.is_duration(kind):
        return _durations(column.cast(pa.int64()), UNITS[kind.unit])
    if pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_struct(kind):
        fields = [_json_values(field) for field in column.flatten()]
        return pa.StructArray.from_arrays(fields, [field.name for field in kind], mask=column.is_null())
    if pa.types.is_map(kind):
        entries = map_entries(column).flatten()
        return as_maps(column, _json_values(entries.field(1)), entries.field(0))
    if pa.types.is_nested(kind):
        return as_lists(column, _json_values(column.flatten()))
    return column


def _within(column: pa.Array, low: int, high: int, digits: int) -> pa.Array:
    """The column with null where its integers are not in [low, high) times 10^digits."""
    kind = column.type
    integers = column.view(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(pa.int64())
    bounds = [min(max(bound * 10**digits, -(1 << 63)), (1 << 63) - 1) for bound in (low, high)]
    known = pc.and_(pc.greater_equal(integers, bounds[0]), pc.less(integers, bounds[1]))
    return pc.if_else(known, column, pa.scalar(None, kind))


def _durations(column: pa.Array, digits: int) -> pa.Array:
    """int64 of units of 10^-digits seconds as ISO 8601; the least one, which stands for infinity, is null."""
    unit, out = 10**digits, []
    for value in column.to_pylist():
        seconds, rest = divmod(abs(value or 0), unit)
        part = f".{rest:0{digits}}".rstrip("0") if rest else ""
        sign = "-" if (value or 0) < 0 else ""
        out.append(None if value is None or abs(value) >= (1 << 63) - 1 else f"{sign}PT{seconds}{part}S")
    return pa.array(out, pa.string())
