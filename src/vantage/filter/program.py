"""A filter's tree -> the program that the kernel runs over the columns of a block, in postfix order.

u32 steps and u32 spans, then each step (u8 code, u8 0, u16 column, u32 spans) and the spans of all terms in turn, pairs
of i64: low and high, both included, rising and apart. A term pushes the rows that have a value in one of its spans; and
and or take two sets of rows off the stack and push one, not turns the last.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import LimitError
from ..format import FilterField
from .parse import Bound, Cut, Junction, Negation, Node, Term

TERM, AND, OR, NOT = range(4)
STACK_MAX = 16  # sets of rows at once: filters are eight deep
STEPS_MAX = 128  # each takes time for every block
_HEAD = struct.Struct("<II")
_STEP = struct.Struct("<BBHI")

Span = tuple[int, int]


@dataclass(frozen=True)
class Program:
    """A filter, ready for every block of an index. columns: places of the fields that it looks at."""

    data: bytes
    columns: frozenset[int]


def spans_of(term: Term, field: FilterField) -> tuple[Span, ...]:
    """The keys of a term, rising and apart."""
    spans = sorted(span for low, high in term.spans if (span := (_first(low, field), _last(high, field)))[0] <= span[1])
    out: list[Span] = []
    for low, high in spans:
        if out and low <= out[-1][1] + 1:
            out[-1] = out[-1][0], max(out[-1][1], high)
        else:
            out.append((low, high))
    return tuple(out)


def resolve(node: Node, fields: Sequence[FilterField]) -> Node:
    """The same filter, its terms in keys; what one `and` asks of a field that has no lists is one term."""
    if isinstance(node, Term):
        return Term(node.field, spans_of(node, fields[node.field]))
    if isinstance(node, Negation):
        return Negation(resolve(node.part, fields))
    parts = list[Node]()
    for part in (resolve(part, fields) for part in node.parts):
        parts += part.parts if isinstance(part, Junction) and part.either == node.either else (part,)
    parts = _merged(parts, fields, node.either)
    return parts[0] if len(parts) == 1 else Junction(tuple(parts), node.either)


def _merged(parts: list[Node], fields: Sequence[FilterField], either: bool) -> list[Node]:
    """Parts of an `and` or an `or`, with one term for each field, at the place of the first; of an `and` those of lists
    stay, as each may hold for another value.
    """
    out: list[Node] = []
    places: dict[int, int] = {}
    for part in parts:
        if isinstance(part, Term) and (either or not fields[part.field].many):
            if part.field in places:
                first = out[places[part.field]]
                assert isinstance(first, Term)
                field = fields[part.field]
                both = Term(part.field, (*first.spans, *part.spans))
                if not either:
                    both = Term(part.field, intersection(spans_of(first, field), spans_of(part, field)))
                out[places[part.field]] = both
                continue
            places[part.field] = len(out)
        out.append(part)
    return [Term(p.field, spans_of(p, fields[p.field])) if isinstance(p, Term) else p for p in out]


def intersection(a: Sequence[Span], b: Sequence[Span]) -> tuple[Span, ...]:
    """The keys that both have; all rising and apart."""
    out, i, j = list[Span](), 0, 0
    while i < len(a) and j < len(b):
        low, high = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if low <= high:
            out.append((low, high))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return tuple(out)


def complement(spans: Sequence[Span], low: int, high: int) -> tuple[Span, ...]:
    """The keys from low to high that are in none of the spans, which rise and are apart."""
    out, at = list[Span](), low
    for first, last in spans:
        if first > at:
            out.append((at, min(first - 1, high)))
        at = max(at, last + 1)
    return tuple(span for span in (*out, (at, high)) if span[0] <= span[1])


def _first(bound: Bound, field: FilterField) -> int:
    return field.key(field.rank(bound.text, after=bound.after)) if isinstance(bound, Cut) else bound


def _last(bound: Bound, field: FilterField) -> int:
    return field.key(field.rank(bound.text, after=bound.after) - 1) if isinstance(bound, Cut) else bound


def compile_filter(node: Node, fields: Sequence[FilterField]) -> Program:
    """The program of a tree, whose terms are of these fields."""
    steps: list[bytes] = []
    spans: list[Span] = []
    columns: set[int] = set()

    def push(node: Node) -> None:
        if isinstance(node, Term):
            own = spans_of(node, fields[node.field])
            steps.append(_STEP.pack(TERM, 0, node.field, len(own)))
            spans.extend(own)
            columns.add(node.field)
        elif isinstance(node, Negation):
            push(node.part)
            steps.append(_STEP.pack(NOT, 0, 0, 0))
        else:
            for i, part in enumerate(node.parts):
                push(part)
                if i:
                    steps.append(_STEP.pack(OR if node.either else AND, 0, 0, 0))

    push(node)
    if len(steps) > STEPS_MAX:
        raise LimitError(
            "the number of conditions of the filter and of what joins and turns them around", len(steps), STEPS_MAX,
            hint="use $in, or fewer of them", param="filter",
        )  # fmt: skip
    pairs = [key for span in spans for key in span]
    data = _HEAD.pack(len(steps), len(spans)) + b"".join(steps) + struct.pack(f"<{len(pairs)}q", *pairs)
    return Program(data, frozenset(columns))
