"""The values of all rows as keys, an array an attribute; and what of them goes into the blocks."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError
from vantage.filter.keys import KEY_MAX, KEY_MIN, float_key, time_key
from vantage.format import TEXTS_MAX, FilterField, pack_columns

from ..ingest.rows import Ints, Rows
from ..progress import Progress
from .declare import Declared

I64 = npt.NDArray[np.int64]

LIST_MAX = 255  # values of a row, as a column counts them
TEXT_BYTES_MAX = 64 << 10  # of the sorted texts of an attribute that nobody named: they lie in the root
BLOCK_ROW_BYTES_MAX = 8.0  # of all such attributes together
ROW_BYTES_MAX = 2.0  # of such an attribute in a block, which every query reads
JUDGED_BLOCKS = 64
READ_ROWS = 4096  # of attributes as JSON, at a time


@dataclass(frozen=True)
class Column:
    """An attribute's keys: those of source row i are keys[ends[i]:ends[i + 1]], rising. name: of the attribute."""

    name: str
    field: FilterField
    keys: I64
    ends: I64

    def of(self, rows: Ints) -> list[list[int]]:
        """The keys of each of these source rows."""
        low, high = self.ends[rows], self.ends[rows + 1]
        if not self.field.many:
            values = self.keys[np.minimum(low, max(0, len(self.keys) - 1))].tolist() if len(self.keys) else []
            there = (high > low).tolist()
            return [[v] if t else [] for v, t in zip(values or [0] * len(rows), there, strict=True)]
        return [self.keys[a:b].tolist() for a, b in zip(low.tolist(), high.tolist(), strict=True)]


class Unfit(Exception):
    """A value that no column can have: what is wrong with it."""


def refused(one: Declared, error: Unfit) -> InputError:
    """What to raise for an attribute that was named."""
    return InputError(f"{one.name!r} cannot be filtered by: {error}", hint="leave it out of --filter")


def read_columns(rows: Rows, declared: Sequence[Declared], note: Any, progress: Progress) -> list[Column]:
    """The columns of declared attributes. Leaves out, and notes, one that nobody named and that is not fit or too dear.

    Raises InputError for an attribute that was named and has a value that cannot be compared.
    """
    if not declared:
        return []
    parts: list[list[Any]] = [[] for _ in declared]
    for cell, arrays in zip(rows.cells(), rows.tasks.map(_read, (rows, tuple(declared)), rows.cells(), progress),
                            strict=True):  # fmt: skip
        del cell
        for i, part in enumerate(parts):
            part.append(arrays[4 * i : 4 * i + 4])
    out = []
    for one, part in zip(declared, parts, strict=True):
        unfit = next((bytes(p[3]).decode() for p in part if len(p[3])), "")
        try:
            if unfit:
                raise Unfit(unfit)
            out.append(_joined(one, part, rows.count))
        except Unfit as error:
            if one.asked:
                raise refused(one, error) from None
            note(f"{one.name!r} is not filterable: {error}; name it with --filter to have it whatever it takes")
    return out


def _read(given: tuple[Rows, tuple[Declared, ...]], cell: tuple[int, int]) -> tuple[npt.NDArray[Any], ...]:
    """Of each attribute: keys, or of texts their places in the sorted ones of this cell (n); how many each row has
    (rows); the texts, as JSON; and what is wrong with a value, as UTF-8.
    """
    rows, declared = given
    names = [one.attribute for one in declared]
    values: list[list[list[Any]]] = [[] for _ in declared]
    wrong = [""] * len(declared)
    for low in range(*cell, READ_ROWS):
        numbers = np.arange(low, min(low + READ_ROWS, cell[1]))
        for row, record in enumerate(rows.stored.attributes(numbers), low):
            record = json.loads(record)
            for i, number in enumerate(names):
                try:
                    values[i].append(keys_of(record[number], declared[i].kind, declared[i].many))
                except Unfit as error:
                    values[i].append([])
                    wrong[i] = wrong[i] or f"row {row} {error}"
    out: list[npt.NDArray[Any]] = []
    for one, own, what in zip(declared, values, wrong, strict=True):
        counts = np.array([len(v) for v in own], np.uint8)
        flat, texts = [v for some in own for v in some], list[str]()
        if one.kind == "text":
            texts = sorted(set(flat), key=str.encode)
            place = {text: i for i, text in enumerate(texts)}
            flat = [place[v] for v in flat]
        data = json.dumps(texts).encode() if texts else b""
        out += [
            np.array(flat, np.int64),
            counts,
            np.frombuffer(data, np.uint8),
            np.frombuffer(what.encode(), np.uint8),
        ]
    return tuple(out)


def keys_of(value: Any, kind: str, many: bool) -> list[Any]:
    """The keys of a value as JSON has it, each once; texts as they are. Raises Unfit for one that no column takes."""
    if value is None:
        return []
    if many:
        some = sorted({v for v in value if v is not None}, key=str.encode)
        if len(some) > LIST_MAX:
            raise Unfit(f"has {len(some)} values, the limit is {LIST_MAX}")
        return some
    if kind == "number":
        return [float_key(float(value))]
    if kind == "time":
        return [time_key(value)]
    if kind == "integer" and not KEY_MIN <= value <= KEY_MAX:
        raise Unfit(f"has {value}, which is no integer of 64 bits")
    return [value if kind == "text" else int(value)]


def _joined(one: Declared, parts: list[Any], count: int) -> Column:
    """The column of all cells."""
    counts = np.concatenate([part[1] for part in parts])
    ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    keys = np.concatenate([part[0] for part in parts])
    texts: list[bytes] = []
    if one.kind == "text":
        own = [json.loads(bytes(part[2])) if len(part[2]) else [] for part in parts]
        texts = sorted({text.encode() for some in own for text in some})
        nbytes = sum(map(len, texts)) + 4 * len(texts)
        if len(texts) > TEXTS_MAX or (nbytes > TEXT_BYTES_MAX and not one.asked):
            raise Unfit(f"its {len(texts):,} distinct texts take {nbytes:,} bytes of the root")
        place, at = {text: i for i, text in enumerate(texts)}, 0
        for some, part in zip(own, parts, strict=True):
            rank = np.array([place[text.encode()] for text in some], np.int64)
            if len(part[0]):
                keys[at : at + len(part[0])] = rank[part[0]]
            at += len(part[0])
    distinct = len(texts) if one.kind == "text" else len(np.unique(keys))
    low, high = (int(keys.min()), int(keys.max())) if len(keys) else (0, 0)
    text_ends = np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype(np.int64).tolist()
    field = FilterField(
        one.attribute,
        one.kind,
        one.many,
        True,
        int((counts > 0).sum()),
        distinct,
        low,
        high,
        text_ends,
        b"".join(texts),
    )
    assert len(counts) == count
    return Column(one.name, field, keys, ends)


def fit_blocks(
    columns: Sequence[Column],
    declared: Sequence[Declared],
    members: Sequence[Ints],
    projected: Collection[str],
    every: bool,
    note: Any,
) -> list[Column]:
    """Says which go into the blocks: those that take little of what every query reads, every one where answers are
    proven by blocks or the root holds these, and those that were named and have no projection.

    projected: names of those that have one. What then is nowhere is left out, and noted.
    """
    asked = {one.name: one.asked for one in declared}
    some = [members[i] for i in np.linspace(0, len(members) - 1, min(JUDGED_BLOCKS, len(members))).astype(int)]
    out, left = list[Column](), BLOCK_ROW_BYTES_MAX
    for column in columns:
        try:
            plane = [pack_columns([(column.field.many, column.of(rows))]) for rows in some]
            nbytes = sum(map(len, plane)) / max(1, sum(map(len, some)))
        except ValueError:  # more values than a block's table has codes
            nbytes = math.inf
        cheap = nbytes <= ROW_BYTES_MAX and (asked[column.name] or nbytes <= left)
        wanted = every or (asked[column.name] and column.name not in projected)
        if cheap or (wanted and nbytes < math.inf):
            left -= nbytes
            out.append(replace(column, field=replace(column.field, row_bytes=float(np.float32(nbytes)))))
        elif column.name in projected:
            out.append(replace(column, field=replace(column.field, in_blocks=False)))
        elif asked[column.name]:
            raise InputError(
                f"{column.name!r} cannot be filtered by: a block has too many of its values",
                hint="leave it out of --filter",
            )
        else:
            note(f"{column.name!r} is not filterable: {too_dear(nbytes)}")
    return out


def too_dear(nbytes: float) -> str:
    """Why an attribute that nobody named is left out that would take so many bytes of a row in a block."""
    why = f"it would take {nbytes:.1f} bytes of each row that a query scans"
    if nbytes <= ROW_BYTES_MAX:
        why = f"attributes before it take most of {BLOCK_ROW_BYTES_MAX:.0f} bytes of each row that a query scans"
    return f"{why}, and projections enough of the bucket; name it with --filter to have it all the same"


def fields_of(columns: Sequence[Column]) -> tuple[FilterField, ...]:
    """What the root says of them."""
    return tuple(column.field for column in columns)
