"""Rows of a generation by their ids, as the conditions of writes ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..cost import Budget
from ..errors import LimitError
from ..format.log import Id
from ..index import Index
from ..read.deadline import Deadline
from ..read.reader import Reader
from ..read.waves import Steps, run_together
from ..receipt import Receipt
from ..search.rows import ATTRIBUTES_BYTES_MAX
from .conditions import BaseRow

BUILT = 0  # the seq of a row as it was built


async def base_rows(index: Index, ids: Sequence[Id], attributes: bool, deadline: Deadline) -> list[BaseRow | None]:
    """What the generation of an index has of these ids, without the log; None for an id that it does not have.

    attributes: whether they are wanted too, else rows have none. Raises LimitError where that takes more reads than a
    query has, or more attributes than are held at once.
    """
    own = Receipt()
    reader = Reader(index.bucket, index.etags, own, deadline, None, index.limits)
    [rows] = await run_together([(_read(index, ids, attributes, own), own)], reader)
    if rows is None:
        hint = "send several requests, with fewer conditions each"
        raise LimitError(
            "the number of rows with conditions", len(ids), "what a request may read", hint=hint, param="if"
        )
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
