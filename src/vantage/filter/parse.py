"""A filter as JSON -> a tree of terms, every name, type and size checked; docs/filters.md has the dialect.

Nothing is ignored and nothing is cut: what the index does not declare, or a type that does not fit, is an InputError
that names the place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, LimitError
from ..format import FilterField
from .keys import KEY_MAX, KEY_MIN, SECOND, SECONDS_MAX, SECONDS_MIN, float_at_least, key_float, text_hash, time_key

BYTES_MAX = 16 << 10  # as compact JSON
DEPTH_MAX = 8  # objects in each other, by $and, $or and $not
VALUES_MAX = 1024  # of $in, $nin and $all
JUNCTIONS = ("$and", "$or")
RESERVED = (*JUNCTIONS, "$not")  # names that are no attribute of a filter
COMPARISONS = ("$gt", "$gte", "$lt", "$lte")
LISTS = ("$in", "$nin", "$all")
OPERATORS = ("$eq", "$ne", *LISTS, *COMPARISONS, "$exists", "$prefix", "$not")
TYPES = {
    "text": "a string", "integer": "an integer or a float", "number": "a number", "boolean": "true or false",
    "time": "a time of RFC 3339, or an integer of seconds since 1970",
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Cut:
    """A place in the order of texts: before this text, or with `after` behind it."""

    text: bytes
    after: bool = False


Bound = int | Cut
FIRST, LAST = Cut(b""), Cut(b"\xff", True)  # no text in UTF-8 begins with 0xff


@dataclass(frozen=True)
class Term:
    """Rows with a value in one of these spans [low, high] of keys, or of texts between two cuts; of lists, any value.

    field: its place among the fields of the index.
    """

    field: int
    spans: tuple[tuple[Bound, Bound], ...]


@dataclass(frozen=True)
class Junction:
    """Rows that all, or with `either` any, of the parts take."""

    parts: tuple[Node, ...]
    either: bool = False


@dataclass(frozen=True)
class Negation:
    """Rows that the part does not take, those without a value too."""

    part: Node


Node = Term | Junction | Negation


def parse_filter(value: Any, fields: Sequence[FilterField], names: Sequence[str], param: str = "filter") -> Node | None:
    """The tree of a filter, None for the empty one, which takes all rows.

    fields: of the index; names: of its attributes, in the order of its schema. Raises InputError or LimitError.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{param} is not an object", hint='{"year": {"$gte": 2020}}', param=param)
    try:
        nbytes = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    except (TypeError, ValueError, RecursionError):
        raise InputError(f"{param} holds something that JSON does not", hint="send plain values", param=param) from None
    if nbytes > BYTES_MAX:
        raise LimitError(f"the length of {param}, in bytes,", nbytes, BYTES_MAX, hint="ask for less", param=param)
    known = {names[f.attribute]: i for i, f in enumerate(fields)}
    return _object(value, _Schema(fields, known, tuple(names)), param, 1) if value else None


@dataclass(frozen=True)
class _Schema:
    """fields; known: the place of each by name; names: of all attributes, filterable or not."""

    fields: Sequence[FilterField]
    known: Mapping[str, int]
    names: tuple[str, ...]

    def place(self, name: str, where: str) -> int:
        if name in self.known:
            return self.known[name]
        able = ", ".join(self.known) or "none"
        what = "cannot be filtered by" if name in self.names else "is no attribute of this index"
        if name.startswith("$"):
            what, able = "is no operator here", ", ".join(RESERVED)
        raise InputError(f"{where}: {name[:80]!r} {what}", hint=f"known are: {able}"[:400], param=where)


def _object(value: Any, schema: _Schema, where: str, depth: int) -> Node:
    """All conditions of an object."""
    if not isinstance(value, Mapping) or not value:
        what = "is empty" if isinstance(value, Mapping) else "is not an object"
        raise InputError(f"{where} {what}", hint='{"year": {"$gte": 2020}}', param=where)
    if depth > DEPTH_MAX:
        raise LimitError(f"the depth of {where.split('.')[0]}", depth, DEPTH_MAX, hint="nest less", param=where)
    parts = []
    for name, condition in value.items():
        if not isinstance(name, str):
            raise InputError(f"{where} has a name that is no text", hint="name attributes by text", param=where)
        inside = f"{where}.{name[:80]}"
        if name in JUNCTIONS:
            if not isinstance(condition, Sequence) or isinstance(condition, str) or not condition:
                raise InputError(f"{inside} is not a list of filters", hint="send one at least", param=inside)
            nodes = tuple(_object(one, schema, f"{inside}[{i}]", depth + 1) for i, one in enumerate(condition))
            parts.append(_joined(nodes, either=name == "$or"))
        elif name == "$not":
            parts.append(Negation(_object(condition, schema, inside, depth + 1)))
        else:
            place = schema.place(name, inside)
            parts.append(_conditions(condition, place, schema.fields[place], inside, depth))
    return _joined(tuple(parts))


def _joined(parts: tuple[Node, ...], *, either: bool = False) -> Node:
    return parts[0] if len(parts) == 1 else Junction(parts, either)


def _conditions(value: Any, place: int, field: FilterField, where: str, depth: int) -> Node:
    """What an attribute has to be: a value, or an object of operators."""
    if not isinstance(value, Mapping):
        if isinstance(value, Sequence) and not isinstance(value, str):
            raise InputError(f"{where} is a list", hint="use $in for any of them, $all for all", param=where)
        return Term(place, _equal(field, value, where))
    if not value:
        raise InputError(f"{where} has no operator", hint=f"known are: {', '.join(OPERATORS)}", param=where)
    parts: list[Node] = []
    for name, operand in value.items():
        inside = f"{where}.{str(name)[:80]}"
        if name not in OPERATORS:
            raise InputError(f"{inside} is no operator", hint=f"known are: {', '.join(OPERATORS)}", param=inside)
        if name == "$not":
            if depth >= DEPTH_MAX:
                raise LimitError("the depth of the filter", depth + 1, DEPTH_MAX, hint="nest less", param=inside)
            if not isinstance(operand, Mapping):
                raise InputError(f"{inside} is no object of operators", hint="use $ne for a value", param=inside)
            parts.append(Negation(_conditions(operand, place, field, inside, depth + 1)))
        else:
            parts.append(_operator(name, operand, place, field, inside))
    return _joined(tuple(parts))


def _operator(name: str, operand: Any, place: int, field: FilterField, where: str) -> Node:
    if name in LISTS:
        if not isinstance(operand, Sequence) or isinstance(operand, str):
            raise InputError(f"{where} is not a list", hint="send a list of values", param=where)
        if not 1 <= len(operand) <= VALUES_MAX:
            hint = "send one at least" if not operand else "send fewer, or a range"
            raise LimitError(f"the number of values of {where}", len(operand), f"1 to {VALUES_MAX}", hint=hint,
                             param=where)  # fmt: skip
        spans = [_equal(field, one, f"{where}[{i}]") for i, one in enumerate(operand)]
        if name == "$all":
            if not field.many:
                raise InputError(f"{where}: the attribute holds no lists", hint="use $eq or $in", param=where)
            return _joined(tuple(Term(place, one) for one in spans))
        term = Term(place, _union([span for one in spans for span in one]))
        return Negation(term) if name == "$nin" else term
    if name in ("$eq", "$ne"):
        term = Term(place, _equal(field, operand, where))
        return term if name == "$eq" else Negation(term)
    if name == "$exists":
        if not isinstance(operand, bool):
            raise InputError(f"{where} is neither true nor false", hint="send one of them", param=where)
        ranked = field.kind == "text" and not field.hashed
        there = Term(place, ((FIRST, LAST),) if ranked else ((KEY_MIN, KEY_MAX),))
        return there if operand else Negation(there)
    if name == "$prefix":
        if field.kind != "text" or not isinstance(operand, str):
            raise InputError(f"{where}: prefixes are of strings", hint="send a string", param=where)
        _check_order(field, where)
        text = _utf8(operand, where)
        return Term(place, ((Cut(text), Cut(text + b"\xff")),))
    if field.kind == "boolean":
        raise InputError(f"{where}: true and false have no order", hint="use $eq or $ne", param=where)
    _check_order(field, where)
    return Term(place, _compared(name, field, operand, where))


def _check_order(field: FilterField, where: str) -> None:
    """Raises InputError where keys tell nothing of the order of values."""
    if field.hashed:
        raise InputError(
            f"{where}: the attribute has too many different strings for the index to know their order",
            hint="ask for whole strings: use $eq or $in", param=where,
        )  # fmt: skip


def _union(spans: list[tuple[Bound, Bound]]) -> tuple[tuple[Bound, Bound], ...]:
    """Each of them once, in order: they are single values, or empty."""
    return tuple(sorted(set(spans)))


def _equal(field: FilterField, value: Any, where: str) -> tuple[tuple[Bound, Bound], ...]:
    """The span of a value; none where no value of the attribute's type can equal it."""
    if field.hashed:
        key = text_hash(_text(field, value, where))
        return ((key, key),)
    low, high = at_least(field, value, where), above(field, value, where)
    if isinstance(low, Cut) or isinstance(high, Cut):
        return ((low, high),)
    return ((low, high - 1),) if low < high else ()


def _compared(name: str, field: FilterField, value: Any, where: str) -> tuple[tuple[Bound, Bound], ...]:
    bound = at_least(field, value, where) if name in ("$gte", "$lt") else above(field, value, where)
    if isinstance(bound, Cut):
        return ((bound, LAST),) if name in ("$gt", "$gte") else ((FIRST, bound),)
    if name in ("$gt", "$gte"):
        return ((bound, KEY_MAX),) if bound <= KEY_MAX else ()
    return ((KEY_MIN, bound - 1),) if bound > KEY_MIN else ()


def at_least(field: FilterField, value: Any, where: str) -> Bound:
    """The least key that is not below a value."""
    if field.kind == "text":
        return Cut(_text(field, value, where))
    number = _number(field, value, where)
    if field.kind == "number":
        return float_at_least(number)
    return _within(math.ceil(number))


def above(field: FilterField, value: Any, where: str) -> Bound:
    """The least key that is above a value."""
    if field.kind == "text":
        return Cut(_text(field, value, where), True)
    number = _number(field, value, where)
    if field.kind != "number":
        return _within(math.floor(number) + 1)
    least = float_at_least(number)
    return least if least == KEY_MAX or key_float(least) > number else least + 1


def _within(key: int) -> int:
    """A key, or one past the last or the first where it is beyond."""
    return max(KEY_MIN, min(KEY_MAX + 1, key))


def _number(field: FilterField, value: Any, where: str) -> int | float:
    """A value of a field that holds no texts: as its keys count, but for a float64, which stays a number."""
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    if field.kind == "boolean":
        if isinstance(value, bool):
            return int(value)
    elif field.kind == "time":
        return _time(value, where)
    elif fits and (isinstance(value, int) or math.isfinite(value)):
        return value  # type: ignore[no-any-return]
    raise _wrong(field, value, where)


def _time(value: Any, where: str) -> int:
    if isinstance(value, str):
        try:
            return time_key(value)
        except ValueError as error:
            raise InputError(
                f"{where} is {value[:80]!r}: {error}", hint='"2024-05-01T12:00:00Z"', param=where
            ) from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{where} is no time", hint=f"send {TYPES['time']}", param=where)
    if not SECONDS_MIN <= value <= SECONDS_MAX:  # not repeated: it may have thousands of digits
        raise InputError(
            f"{where} is no time of the years 1 to 9999", hint="send seconds since 1970, not milliseconds", param=where
        )
    return value * SECOND


def _text(field: FilterField, value: Any, where: str) -> bytes:
    if value is None:
        raise _wrong(field, value, where)
    if not isinstance(value, str):
        raise InputError(f"{where} is no string", hint="the attribute holds strings: send one", param=where)
    return _utf8(value, where)


def _utf8(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} is not UTF-8", hint="send whole characters", param=where) from None


def _wrong(field: FilterField, value: Any, where: str) -> InputError:
    if value is None:
        return InputError(f"{where} is null", hint='use {"$exists": false} for rows without a value', param=where)
    if isinstance(value, float):
        return InputError(f"{where} is not finite", hint="send a finite number", param=where)
    return InputError(f"{where} is of another type", hint=f"send {TYPES[field.kind]}", param=where)
