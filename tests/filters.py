"""Filters in plain Python, over the values themselves; and rows and filters made up at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import eq, ge, gt, le, lt
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from vantage.filter.keys import float_key, text_hash, time_key
from vantage.format import FilterField
from vantage.format.filters import TEXT_KEYS

COMPARE = {"$eq": eq, "$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KINDS = {"lang": "text", "tags": "text", "year": "integer", "price": "number", "stock": "boolean", "at": "time",
         "code": "text", "refs": "text"}  # fmt: skip
NAMES = ("lang", "note", "tags", "year", "price", "stock", "at", "code", "refs")  # "note" cannot be filtered by
LISTS, HASHED = ("tags", "refs"), ("code", "refs")  # the latter have too many texts for the root
TEXTS = ("", "a", "b", "de", "dé", "deux", "fr", "z\U0001f600", "zz", "\x00", "\ud7ff")
INTEGERS = (-(1 << 63), -5, -1, 0, 1, 2, 2020, 2021, (1 << 53) + 1, (1 << 63) - 1)
CODES = [f"https://example.org/a-long-way-to-the-papers/of-the-archive/{i:06}" for i in range(4000)]
NUMBERS = (-1e308, -1.5, -0.0, 0.0, 5e-324, 0.1, 1.0, 2020.0, 2020.5, 9007199254740993.0, 1.7e308)
TIMES = ("0001-01-01", "1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:00Z", "2024-05-01T12:00:00+02:00",
         "2024-05-01T10:00:00Z", "2024-05-01T10:00:00.5", "9999-12-31T23:59:59Z")  # fmt: skip


def matching(filter: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether a filter takes each of these rows, by what docs/filters.md says of the dialect.

    Asked of all rows at once, a condition is looked into once: one by one they take four times as long.
    """
    parts = [[True] * len(rows)]
    for name, condition in filter.items():
        if name in ("$and", "$or"):
            some = zip(*[matching(one, rows) for one in condition], strict=True)
            parts.append(list(map(all if name == "$and" else any, some)))
        elif name == "$not":
            parts.append([not it for it in matching(condition, rows)])
        else:
            parts.append(_fit(condition, [_values(row.get(name), KINDS[name]) for row in rows], KINDS[name]))
    return list(map(all, zip(*parts, strict=True)))


def _values(value: Any, kind: str) -> list[Any]:
    values = [] if value is None else value if isinstance(value, list) else [value]
    return [_value(v, kind) for v in values if v is not None]


def _fit(condition: Any, have: list[list[Any]], kind: str) -> list[bool]:
    """Of each row: whether its values are what the condition says."""
    if not isinstance(condition, dict):
        condition = {"$eq": condition}
    parts = [_hold(operator, operand, have, kind) for operator, operand in condition.items()]
    return list(map(all, zip(*parts, strict=True)))


def _hold(operator: str, operand: Any, have: list[list[Any]], kind: str) -> list[bool]:
    if operator == "$not":
        return [not it for it in _fit(operand, have, kind)]
    if operator == "$exists":
        return [bool(own) == operand for own in have]
    if operator in ("$in", "$nin", "$all"):
        wanted = {_value(v, kind) for v in operand}
        if operator == "$all":
            return [all(v in own for v in wanted) for own in have]
        return [any([v in wanted for v in own]) == (operator == "$in") for own in have]
    one = _value(operand, kind)
    if operator == "$prefix":
        return [any([v.startswith(one) for v in own]) for own in have]
    compare = COMPARE[operator.replace("$ne", "$eq")]
    return [any([compare(v, one) for v in own]) != (operator == "$ne") for own in have]


@lru_cache(maxsize=1 << 16)
def _value(value: Any, kind: str) -> Any:
    """What compares as values of a kind do: Python compares integers and floats exactly."""
    if kind == "time":
        if isinstance(value, int):
            return EPOCH + timedelta(seconds=value)
        when = datetime.fromisoformat(value)
        return when if when.tzinfo else when.replace(tzinfo=UTC)
    return value.encode() if kind == "text" else value


def key_of(value: Any, kind: str) -> int | bytes:
    """The key of a value as rows have it, of a text its bytes."""
    if kind == "text":
        return value.encode()
    return time_key(value) if kind == "time" else float_key(value) if kind == "number" else int(value)


def random_row(draw: Random) -> dict[str, Any]:
    row: dict[str, Any] = {
        "lang": draw.choice(TEXTS[:-1]),
        "tags": draw.sample(TEXTS[:-1], draw.randrange(4)),
        "year": draw.choice(INTEGERS) if draw.random() < 0.7 else draw.randrange(2000, 2030),
        "price": draw.choice(NUMBERS) if draw.random() < 0.5 else draw.gauss(0, 100),
        "stock": draw.random() < 0.3,
        "at": draw.choice(TIMES),
        "code": draw.choice(CODES if draw.random() < 0.7 else CODES[:5]),
        "refs": draw.sample(CODES if draw.random() < 0.7 else CODES[:5], draw.randrange(4)),
    }
    return {name: None if draw.random() < 0.15 else value for name, value in row.items()}


def _operand(draw: Random, name: str) -> Any:
    kind = KINDS[name]
    if name in HASHED:
        return draw.choice((*CODES[:10], "", "nowhere"))
    if kind == "text":
        return draw.choice((*TEXTS, "d", "dee"))
    if kind == "time":
        return draw.choice((*TIMES, 0, -1, 1714557600, 253_402_300_799, "2024-05-01", "2024-05-01T10:00:00.500001Z"))
    if kind == "boolean":
        return draw.random() < 0.5
    some = (*INTEGERS, *NUMBERS, draw.randrange(2000, 2030), draw.gauss(0, 100), 1 << 63, 1 << 70, -(1 << 2000), 0.5)
    return draw.choice(some)


def random_filter(draw: Random, depth: int = 3) -> dict[str, Any]:
    """A filter that the schema of these names takes, of objects up to `depth` deeper than itself."""
    roll = draw.random()
    if depth and roll < 0.25:
        return {draw.choice(("$and", "$or")): [random_filter(draw, depth - 1) for _ in range(draw.randrange(1, 4))]}
    if depth and roll < 0.35:
        return {"$not": random_filter(draw, depth - 1)}
    out = {name: _condition(draw, name, depth) for name in draw.sample(list(KINDS), draw.randrange(1, 4))}
    if depth and roll < 0.4:
        out["$or"] = [random_filter(draw, depth - 1), random_filter(draw, depth - 1)]
    return out


def _condition(draw: Random, name: str, depth: int) -> Any:
    return _operand(draw, name) if draw.random() < 0.2 else _operators(draw, name, depth)


def _operators(draw: Random, name: str, depth: int) -> dict[str, Any]:
    kind = KINDS[name]
    able = ["$eq", "$ne", "$in", "$nin", "$exists", *["$not"] * (depth > 0)]
    if name not in HASHED:
        able += ["$gt", "$gte", "$lt", "$lte"] * (kind != "boolean") + ["$prefix"] * (kind == "text")
    able += ["$all"] * (name in LISTS)
    out: dict[str, Any] = {}
    for operator in draw.sample(able, draw.randrange(1, 4)):
        if operator == "$not":
            out[operator] = _operators(draw, name, depth - 1)
        elif operator == "$exists":
            out[operator] = draw.random() < 0.5
        elif operator in ("$in", "$nin", "$all"):
            out[operator] = [_operand(draw, name) for _ in range(draw.randrange(1, 4))]
        else:
            out[operator] = _operand(draw, name)
    return out


def fields_of(rows: Sequence[Mapping[str, Any]], draw: Random | None = None) -> tuple[FilterField, ...]:
    """The fields of an index of these rows; with `draw` keys of texts are drawn, with room between them."""
    fields = []
    for name, kind in KINDS.items():
        lists = [_keys(row, name) for row in rows]
        distinct = sorted({key for own in lists for key in own})
        texts = distinct if kind == "text" and name not in HASHED else []
        ends = [0]
        for text in texts:
            ends.append(ends[-1] + len(text))
        low, high = (0, max(0, len(texts) - 1)) if texts else (distinct[0], distinct[-1]) if distinct else (0, 0)
        text_keys = sorted(draw.sample(range(TEXT_KEYS), len(texts))) if draw else []
        if text_keys:
            low, high = text_keys[0], text_keys[-1]
        fields.append(
            FilterField(NAMES.index(name), kind, name in LISTS, True, sum(map(bool, lists)), len(distinct), low, high,
                        ends, b"".join(texts), [sum(text in own for own in lists) for text in texts],
                        hashed=name in HASHED, keys=text_keys)
        )  # fmt: skip
    return tuple(fields)


def _keys(row: Mapping[str, Any], name: str) -> list[Any]:
    value = row[name]
    values = [] if value is None else value if isinstance(value, list) else [value]
    keys = {key_of(v, KINDS[name]) for v in values}
    return sorted(map(text_hash, keys) if name in HASHED else keys)


def columns_of(rows: Sequence[Mapping[str, Any]], fields: Sequence[FilterField]) -> list[tuple[bool, list[list[int]]]]:
    """What `pack_columns` takes of these rows."""
    columns = []
    for name, field in zip(KINDS, fields, strict=True):
        keys = [_keys(row, name) for row in rows]
        if field.kind == "text" and not field.hashed:
            keys = [[field.key(field.rank(text, after=False)) for text in own] for own in keys]
        columns.append((field.many, keys))
    return columns


def table_of(x: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows and their vectors f32 (N, d), as a build reads them."""

    def time(value: str | None) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value if "T" in value else value + "T00:00:00+00:00")

    columns = {
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1]),
        "lang": pa.array([row["lang"] for row in rows]),
        "note": pa.array([{"x": 1}] * len(rows)),
        "tags": pa.array([row["tags"] for row in rows], pa.list_(pa.string())),
        "year": pa.array([row["year"] for row in rows], pa.int64()),
        "price": pa.array([row["price"] for row in rows], pa.float64()),
        "stock": pa.array([row["stock"] for row in rows]),
        "at": pa.array([time(row["at"]) for row in rows], pa.timestamp("us", "UTC")),
        "code": pa.array([row["code"] for row in rows]),
        "refs": pa.array([row["refs"] for row in rows], pa.list_(pa.string())),
    }
    return pa.table(columns)
