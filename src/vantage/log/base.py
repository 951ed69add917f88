"""Rows of a generation by their ids, as the conditions of writes ask for them, and their patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..cost import Budget
from ..errors import LimitError
from ..format import VECTOR_BYTES
from ..format.layout import ATTRIBUTE_ROW_PARTS_MAX
from ..format.log import Id
from ..index import Index
from ..read.deadline import Deadline
from ..read.reader import Reader
from ..read.waves import Steps, run_together
from ..receipt import Receipt
from ..search.rows import ATTRIBUTES_BYTES_MAX
from .conditions import BaseRow, Patched
from .state import BYTES_MAX
from .tail import packed_members

READS = "what a request may read"  # the limit of rows that are looked up
PATCHED_BYTES_MAX = BYTES_MAX // 4  # of the rows of a generation that one request patches
BUILT = 0  # the seq of a row as it was built


async def base_rows(index: Index, ids: Sequence[Id], attributes: bool, deadline: Deadline) -> list[BaseRow | None]:
    """What the generation of an index has of these ids, without the log; None for an id that it does not have.

    attributes: whether they are wanted too, else rows have none. Raises LimitError where that takes more reads than a
    query has, or more attributes than are held at once.
    """
    own = Receipt()
    reader = Reader(index.bucket, index.etags, Receipt(), deadline, None, index.limits)
    [rows] = await run_together([(_read(index, ids, attributes, own), own)], reader)
    if rows is None:
        hint = "send several requests, with fewer conditions each"
        raise LimitError("the number of rows with conditions", len(ids), READS, hint=hint, param="if")
    return rows


async def patched_rows(index: Index, changes: Mapping[Id, bytes], deadline: Deadline) -> tuple[dict[Id, Patched], int]:
    """Of what a request patches the rows that the generation of an index has, without the log; and the bytes that
    whoever reads the request then holds of them: vectors and attributes.

    changes: of each id the members that are patched, as JSON. Raises LimitError where finding the rows takes more reads
    than a query has, or they have more than PATCHED_BYTES_MAX.
    """
    own = Receipt()
    reader = Reader(index.bucket, index.etags, Receipt(), deadline, None, index.limits)
    [rows] = await run_together([(_patched(index, changes, own), own)], reader)
    width = VECTOR_BYTES[index.root.index.vector_kind] * index.root.index.dimension
    nbytes = sum(width + row.nbytes for row in (rows or {}).values())
    if rows is None or nbytes > PATCHED_BYTES_MAX:
        hint = "send several requests, with fewer rows each"
        raise LimitError("the number of rows that are patched", len(changes), READS, hint=hint, param="patch")
    return rows, nbytes


def _patched(index: Index, changes: Mapping[Id, bytes], spent: Receipt) -> Steps[dict[Id, Patched] | None]:
    stored, names, budget = index.segment.rows, index.root.names, Budget().within(index.limits)
    entries = yield from stored.find_many(list(changes), budget)
    if len(entries) < len(changes):
        return None
    own = len(packed_members(dict.fromkeys(names, 0)))
    found = {i: entry for i, entry in entries.items() if entry is not None}
    rows = {i: Patched(own + (entry.spot.size if entry.spot else 0)) for i, entry in found.items()}
    long = [i for i, row in rows.items() if row.nbytes + len(changes[i]) > ATTRIBUTE_ROW_PARTS_MAX]
    if long:
        spots = {found[i].row: spot for i in long if (spot := found[i].spot) is not None}
        values = yield from stored.attributes(spots, spent.left_of(budget), ATTRIBUTES_BYTES_MAX)
        if len(values) < len(spots):
            return None
        rows |= {i: Patched(rows[i].nbytes, values.get(found[i].row, {})) for i in long}
    return rows


def _read(index: Index, ids: Sequence[Id], attributes: bool, spent: Receipt) -> Steps[list[BaseRow | None] | None]:
    stored, budget = index.segment.rows, Budget().within(index.limits)
    entries = yield from stored.find_many(list(dict.fromkeys(ids)), budget)
    if len(entries) < len(set(ids)):
        return None
    found = {entry.row: entry for entry in entries.values() if entry is not None}
    values: dict[int, dict[str, Any]] = {row: {} for row in found}
    if attributes and index.root.names:
        spots = {row: entry.spot for row, entry in found.items() if entry.spot is not None}
        values = yield from stored.attributes(spots, spent.left_of(budget), ATTRIBUTES_BYTES_MAX)
        if len(values) < len(found):
            return None
    rows = [entries[i] for i in ids]
    return [None if row is None else BaseRow(BUILT, values[row.row]) for row in rows]
