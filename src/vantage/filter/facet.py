"""Facets as JSON -> what to count of which attribute, every name, type and size checked; and keys as values again."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DamagedError, InputError, LimitError
from ..format import FilterField
from ..format.columns import VALUES_MAX
from .keys import KEY_MAX, KEY_MIN, SECOND, SECONDS_MAX, float_key, key_float, key_time, text_hash, time_key
from .parse import Junction, Negation, Node, Term, above, at_least
from .program import Span, complement, intersection, spans_of

FACETS_MAX = 16
TOP_MAX = 1000
BUCKETS_MAX = 100
DISTINCT_MAX = 1 << 15  # values that are counted one by one, of all facets together
OUTSIDE = -1  # the number of what is in no bucket
WAYS = ("top", "buckets", "edges")
EXAMPLE = '{"lang": {"top": 10}, "year": {"buckets": 12}, "price": {"edges": [0, 10, 100]}}'
_TIME_MAX = (SECONDS_MAX + 1) * SECOND - 1


@dataclass(frozen=True)
class Facet:
    """What to count of a field, `field` being its place among those of the index.

    top: so many values, those of most rows; 0: a histogram, whose bucket i has the keys from starts[i] on up to
    starts[i + 1], without it. edges: the same as values; the last bucket has its upper edge too.
    spans, nulls: the keys that the conditions on this field alone leave, and whether rows without a value; rest: the
    other conditions, None where there are none.
    """

    name: str
    field: int
    top: int
    edges: tuple[Any, ...]
    starts: tuple[int, ...]
    spans: tuple[Span, ...]
    nulls: bool
    rest: Node | None

    def takes(self, key: int) -> bool:
        """Whether the conditions on this field leave a key."""
        return self.takes_some(key, key)

    def takes_some(self, low: int, high: int) -> bool:
        """Whether they leave any key from low to high."""
        at = bisect_right(self.spans, (high, KEY_MAX)) - 1
        return at >= 0 and self.spans[at][1] >= low

    def takes_all(self, low: int, high: int) -> bool:
        """Whether they leave all of them."""
        at = bisect_right(self.spans, (low, KEY_MAX)) - 1
        return at >= 0 and self.spans[at][1] >= high

    def bucket(self, key: int) -> int:
        """The bucket of a histogram that a key falls in; OUTSIDE for none."""
        at = bisect_right(self.starts, key) - 1
        return at if 0 <= at < len(self.starts) - 1 else OUTSIDE


def parse_facets(
    value: Any, fields: Sequence[FilterField], names: Sequence[str], node: Node | None
) -> tuple[Facet, ...]:
    """In the order given. fields: of the index; names: of its attributes; node: the filter, in keys (resolve), or None.

    Raises InputError or LimitError, which name the place.
    """
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InputError("facets is not an object", hint=EXAMPLE, param="facets")
    if not 1 <= len(value) <= FACETS_MAX:
        hint = "name one at least" if not value else "send several requests"
        raise LimitError("the number of facets", len(value), f"1 to {FACETS_MAX}", hint=hint, param="facets")
    known = {names[f.attribute]: i for i, f in enumerate(fields)}
    out, distinct = list[Facet](), 0
    for name, asked in value.items():
        where = f"facets.{name[:80]}"
        if name not in known:
            what = "is not filterable" if name in names else "is no attribute of this index"
            able = ", ".join(known) or "none"
            raise InputError(f"{where} {what}", hint=f"filterable are: {able}"[:400], param=where)
        facet = _facet(name, asked, known[name], fields[known[name]], node, where)
        distinct += fields[facet.field].distinct if facet.top else 0
        if distinct > DISTINCT_MAX:
            hint = "ask for a histogram, or for fewer facets"
            raise LimitError(f"the number of values to count, with {where},", distinct, DISTINCT_MAX, hint=hint,
                             param=where)  # fmt: skip
        out.append(facet)
    return tuple(out)


def _facet(name: str, asked: Any, place: int, field: FilterField, node: Node | None, where: str) -> Facet:
    if not isinstance(asked, Mapping) or len(asked) != 1 or next(iter(asked)) not in WAYS:
        raise InputError(f"{where} is no object with one of {', '.join(WAYS)}", hint=EXAMPLE, param=where)
    if field.hashed:
        what = f"{where} has {field.distinct:,} different strings, known by their hashes alone"
        raise InputError(what, hint="count another attribute, or list rows", param=where)
    [(way, operand)] = asked.items()
    inside, (spans, nulls, rest) = f"{where}.{way}", _apart(node, place, field)
    if way == "top":
        top = _count(operand, TOP_MAX, inside)
        return Facet(name, place, top, (), (), spans, nulls, rest)
    if field.kind not in ("integer", "number", "time"):
        raise InputError(f"{inside}: there are histograms of numbers and times alone", hint="use top", param=inside)
    if way == "buckets":
        edges, starts = _even(field, spans, _count(operand, BUCKETS_MAX, inside))
    else:
        edges, starts = _given(field, operand, inside)
    return Facet(name, place, 0, tuple(edges), tuple(starts), spans, nulls, rest)


def _count(value: Any, most: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{where} is not an integer", hint="send a whole number", param=where)
    if not 1 <= value <= most:
        hint = "ask for one at least" if value < 1 else "ask for fewer"
        shown = value if value.bit_length() <= 64 else "of more than 64 bits"
        raise LimitError(where, shown, f"1 to {most}", hint=hint, param=where)
    return value


def _apart(node: Node | None, place: int, field: FilterField) -> tuple[tuple[Span, ...], bool, Node | None]:
    """(keys that conditions on one field leave, whether rows without a value, the other conditions) of a filter.

    What is asked of a list stays with the others: a row that has one value may have more.
    """
    spans: tuple[Span, ...] = ((KEY_MIN, KEY_MAX),)
    if node is None or field.many:
        return spans, True, node
    nulls, rest = True, list[Node]()
    for part in node.parts if isinstance(node, Junction) and not node.either else (node,):
        if isinstance(part, Term) and part.field == place:
            spans, nulls = intersection(spans, spans_of(part, field)), False
        elif isinstance(part, Negation) and isinstance(part.part, Term) and part.part.field == place:
            spans = intersection(spans, complement(spans_of(part.part, field), KEY_MIN, KEY_MAX))
        else:
            rest.append(part)
    return spans, nulls, (rest[0] if len(rest) == 1 else Junction(tuple(rest))) if rest else None


def _even(field: FilterField, spans: Sequence[Span], count: int) -> tuple[list[Any], list[int]]:
    """(edges, starts) of at most so many buckets of one width, from the least to the largest key that may be there."""
    inside = intersection(spans, ((field.low, field.high),)) if field.rows else ()
    if not inside:
        return [], []
    low, high = inside[0][0], inside[-1][1]
    if field.kind == "number":
        first, last = value_of(field, low), value_of(field, high)
        between = (first * (1 - i / count) + last * (i / count) for i in range(1, count))
        edges = sorted({first, last, *(min(max(v, first), last) for v in between)})
        edges = edges if len(edges) > 1 else [first, last]
        starts = [float_key(v) for v in edges]
        return edges, [*starts[:-1], starts[-1] + 1]
    width = -(-(high - low + 1) // count)
    starts = [*range(low, high + 1, width)]
    starts.append(starts[-1] + width)
    if field.kind == "time":
        starts[-1] = min(starts[-1], _TIME_MAX)
    return [value_of(field, key) if field.kind == "time" else key for key in starts], [*starts[:-1], starts[-1] + 1]


def _given(field: FilterField, edges: Any, where: str) -> tuple[list[Any], list[int]]:
    """The same of edges as they were sent."""
    if not isinstance(edges, Sequence) or isinstance(edges, str):
        raise InputError(f"{where} is not a list", hint="send the edges of the buckets, rising", param=where)
    if not 2 <= len(edges) <= BUCKETS_MAX + 1:
        raise LimitError(f"the number of {where}", len(edges), f"2 to {BUCKETS_MAX + 1}",
                         hint="a bucket lies between two edges", param=where)  # fmt: skip
    places = [f"{where}[{i}]" for i in range(len(edges))]
    keys = [(at_least(field, v, at), above(field, v, at)) for v, at in zip(edges, places, strict=True)]
    starts = []
    for i, (own, beyond) in enumerate(keys):
        if not isinstance(own, int) or not isinstance(beyond, int):  # of a text, which has no histogram
            raise InputError(f"{where} has a text", hint="send numbers", param=where)
        if i and keys[i - 1] >= (own, beyond):
            raise InputError(f"{places[i]} is not above the edge before it", hint="let edges rise", param=places[i])
        starts.append(beyond if i == len(keys) - 1 else own)
    return list(edges), starts


def value_of(field: FilterField, key: int) -> Any:
    """A key as JSON has its value. Raises DamagedError for one that no value of the field has."""
    try:
        if field.kind == "text" and field.is_key(key):
            return field.text(key).decode()
        if field.kind == "boolean" and key in (0, 1):
            return bool(key)
        if field.kind == "number" and math.isfinite(number := key_float(key)):
            return number
        if field.kind == "time":
            return key_time(key)
        if field.kind == "integer":
            return key
    except (ValueError, OverflowError):  # no UTF-8, or a year that there is not
        pass
    raise DamagedError(f"a {field.kind} of attribute {field.attribute} has key {key}", hint="build the index again")


def keys_of(field: FilterField, value: Any) -> list[int]:
    """The keys of an attribute as a row has it, each once. Raises DamagedError where it is none of the field."""
    values = values_of(field, value, "a row")
    if not field.ranked:
        return values
    ranks = [field.rank(text, after=False) for text in values]
    if any(field.rank(text, after=True) == rank for text, rank in zip(values, ranks, strict=True)):
        what = f"a row has a text of attribute {field.attribute} that the index does not know"
        raise DamagedError(what, hint="build the index again")
    return [field.key(rank) for rank in ranks]


def values_of(field: FilterField, value: Any, where: str) -> list[Any]:
    """The values of an attribute as a row has it, each once and rising: keys, but of texts with ranks their UTF-8.

    where: what errors call the row. Raises DamagedError for what no row of the index can have.
    """
    values = [] if value is None else value if field.many and isinstance(value, list) else [value]
    try:
        own = sorted({_value(field, one) for one in values if one is not None})
    except (ValueError, TypeError, OverflowError):
        what = f"{where} has a value of attribute {field.attribute} that is no {field.kind}"
        raise DamagedError(what, hint="write the row again, or build the index anew") from None
    if len(own) > VALUES_MAX:
        what = f"{where} has {len(own)} values of attribute {field.attribute}, the limit is {VALUES_MAX}"
        raise DamagedError(what, hint="write the row again, or build the index anew")
    return own


def _value(field: FilterField, value: Any) -> int | bytes:
    if field.kind == "text" and isinstance(value, str):
        text = value.encode()
        return text_hash(text) if field.hashed else text
    if field.kind == "time" and isinstance(value, str):
        return time_key(value)
    if field.kind == "boolean" and isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if field.kind == "number" and math.isfinite(number := float(value)):
            return float_key(number)
        if field.kind == "integer" and isinstance(value, int) and KEY_MIN <= value <= KEY_MAX:
            return value
    raise ValueError(value)
