"""A filter at work in a segment: its program, the rows that it is expected to take, and how its blocks are routed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..filter.expect import expected_rows
from ..filter.parse import Node, parse_filter
from ..filter.program import Program, compile_filter, resolve
from ..format import Root


@dataclass(frozen=True)
class Selection:
    """A filter, compiled for one segment. rows: of each block, of those at home in it, how many it is expected to take;
    none in an index without counts. 0 is sure, other numbers are about right.
    """

    node: Node
    program: Program
    rows: Sequence[float]


@dataclass(frozen=True)
class Matched:
    """How many rows a filter takes; exact says that they were counted."""

    rows: int
    exact: bool


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
    program = compile_filter(node, root.filters)  # refuses too many conditions before counts are summed for each
    rows = expected_rows(node, root.filters, root.counts, homes) if root.counts and homes else []
    return Selection(node, program, rows)


def distinct_field(name: str, root: Root) -> int:
    """The field of an attribute whose values tell answers apart. Raises InputError for one that blocks do not have."""
    able = {root.names[f.attribute]: i for i, f in enumerate(root.filters) if f.in_blocks and not f.many}
    if name not in able:
        what = "cannot tell answers apart" if name in root.names else "is no attribute of this index"
        hint = f"these can: {', '.join(able) or 'none'}"[:400]
        raise InputError(f"distinct: {name[:80]!r} {what}", hint=hint, param="distinct")
    return able[name]
