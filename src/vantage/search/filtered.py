"""A filter at work in a segment: its program, the rows that it is expected to take, and how its blocks are routed."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from ..filter.expect import expected_rows, rows_within
from ..filter.keys import KEY_MAX, KEY_MIN
from ..filter.parse import Junction, Negation, Node, Term, parse_filter
from ..filter.program import Program, Span, compile_filter, complement, resolve, spans_of
from ..format import Counts, Projection, Root

BASES_MAX = 4  # conditions that are weighed as what to read by


@dataclass(frozen=True)
class Base:
    """A condition that every match fulfils, by which chunks are found: rows of a field with a key in the spans, or with
    `nulls` without one.
    """

    projection: Projection
    spans: tuple[Span, ...]
    nulls: bool


@dataclass(frozen=True)
class Selection:
    """A filter, as it was sent and compiled for one segment. rows: of each block, of those at home in it, how many it
    is expected to take; none in an index without counts. 0 is sure, other numbers are about right.

    bases: what chunks can be found by; whole: all of their chunks are known. Of a large index a wave reads what is
    known of rows and chunks, and told keeps the last that it said, for queries of the same request.
    """

    parsed: Node
    node: Node
    program: Program
    rows: Sequence[float]
    bases: tuple[Base, ...] = ()
    whole: bool = True
    told: dict[Any, Selection] = field(default_factory=dict, compare=False)

    def in_blocks(self, root: Root) -> bool:
        """Whether blocks have all columns that the filter looks at."""
        return all(root.filters[i].in_blocks for i in self.program.columns)


@dataclass(frozen=True)
class Matched:
    """How many rows a filter takes; exact says that they were counted."""

    rows: int
    exact: bool


def bases(node: Node, program: Program, root: Root) -> list[Base]:
    """Conditions of a filter that all matches fulfil, on fields that have a projection. Where there is none, and blocks
    lack a column, that it is any row.
    """
    by_field = {p.field: p for p in root.projections}
    out = list[Base]()
    for part in node.parts if isinstance(node, Junction) and not node.either else (node,):
        if isinstance(part, Term) and part.field in by_field:
            out.append(Base(by_field[part.field], spans_of(part, root.filters[part.field]), False))
        elif isinstance(part, Negation) and isinstance(part.part, Term) and part.part.field in by_field:
            field = root.filters[part.part.field]
            if not field.many:
                inside = spans_of(part.part, field)
                out.append(Base(by_field[part.part.field], complement(inside, field.low, field.high), True))
    lacking = {i for i in program.columns if not root.filters[i].in_blocks}
    if not out and lacking & by_field.keys():
        out.append(Base(by_field[min(lacking & by_field.keys())], ((KEY_MIN, KEY_MAX),), True))
    return out


def select(value: Any, root: Root, homes: Sequence[int]) -> Selection | None:
    """A filter as JSON has it, for this segment; None where all rows may answer. homes (B): rows at home in each block.

    Raises InputError or LimitError for a filter that this index does not take.
    """
    if value is None:
        return None
    if not root.filters and value:
        raise InputError(
            "no attribute of this index can be filtered by", hint="build it with --filter, or leave filter out",
            param="filter",
        )  # fmt: skip
    parsed = parse_filter(value, root.filters, root.names)
    if parsed is None:
        return None
    node = resolve(parsed, root.filters)
    # It refuses too many conditions before counts are summed for each.
    program, counts = compile_filter(node, root.filters), root.counts
    if counts is None or not homes:
        return Selection(parsed, node, program, [])
    if counts.paged:
        share = expected_in_all(node, root, counts) / sum(homes)
        return Selection(parsed, node, program, array("d", [share * home for home in homes]), whole=False)

    def rows_of(field: int, spans: Sequence[Span]) -> Sequence[float]:
        return rows_within(spans, counts.fields[field], root.filters[field].distinct, len(homes))

    rows = expected_rows(node, root.filters, rows_of, homes, root.live_rows)
    return Selection(parsed, node, program, rows, tuple(bases(node, program, root)[:BASES_MAX]))


def expected_in_all(node: Node, root: Root, counts: Counts) -> float:
    """Rows of a large index that a filter is expected to take, by what the root says of its buckets; 0 is sure."""

    def rows_of(field: int, spans: Sequence[Span]) -> list[float]:
        own = counts.fields[field]
        return [sum(own.totals[j] * share for j, share in own.touched(spans, root.filters[field].distinct))]

    [rows] = expected_rows(node, root.filters, rows_of, [root.live_rows])
    return rows


def distinct_field(name: str, root: Root) -> int:
    """The field of an attribute whose values tell answers apart. Raises InputError for one that blocks do not have."""
    able = {root.names[f.attribute]: i for i, f in enumerate(root.filters) if f.in_blocks and not f.many}
    if name not in able:
        what = "cannot tell answers apart" if name in root.names else "is no attribute of this index"
        hint = f"these can: {', '.join(able) or 'none'}"[:400]
        raise InputError(f"distinct: {name[:80]!r} {what}", hint=hint, param="distinct")
    return able[name]
