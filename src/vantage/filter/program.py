"""A filter's tree -> the program that the kernel runs over the columns of a block, in postfix order.

u32 steps and u32 spans, then each step (u8 code, u8 0, u16 column, u32 spans) and the spans of all terms in turn, pairs
of i64: low and high, both included, rising and apart. A term pushes the rows that have a value in one of its spans; and
and or take two sets of rows off the stack and push one, not turns the last.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ..format import FilterField
from .parse import Bound, Cut, Negation, Node, Term

TERM, AND, OR, NOT = range(4)
STACK_MAX = 16  # sets of rows at once: filters are eight deep
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


def _first(bound: Bound, field: FilterField) -> int:
    return field.rank(bound.text, after=bound.after) if isinstance(bound, Cut) else bound


def _last(bound: Bound, field: FilterField) -> int:
    return field.rank(bound.text, after=bound.after) - 1 if isinstance(bound, Cut) else bound


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
    pairs = [key for span in spans for key in span]
    data = _HEAD.pack(len(steps), len(spans)) + b"".join(steps) + struct.pack(f"<{len(pairs)}q", *pairs)
    return Program(data, frozenset(columns))
